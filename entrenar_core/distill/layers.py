"""Layer-wise distillation: the student's hidden states, and its attention if wanted, follow those of chosen blocks.

Where the widths differ, the student's states go through a learned matrix first, as in FitNets (Romero et al. 2015) and
TinyBERT (Jiao et al. 2020). Progressively means that pairs of blocks join one after another from the bottom up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np

from entrenar_core.autograd.ops import elementwise, embedding, matmul, shape
from entrenar_core.autograd.ops.matching import attention_match, hidden_match
from entrenar_core.autograd.tape import scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.errors import ConfigError
from entrenar_core.model.decoder import Taps
from entrenar_core.model.module import Module
from entrenar_core.model.spec import DecoderSpec

EVEN = "even"
PROJECTION = "distill.projection"
"""Name of the learned matrices, without the number of the student's block and the suffix."""


@dataclass(frozen=True)
class LayerPair:
    """A block of the student and the one of the teacher that it follows, both counted from 0."""

    student: int
    teacher: int


@dataclass(frozen=True)
class MatchingSettings:
    """What is compared and how much it counts.

    Attributes:
        loss: mean squared error, or 1 - cosine, of the hidden states.
        weight: of the mean over pairs, beside the divergence and the cross-entropy.
        attention: weight of KL(teacher's attention ‖ student's), beside that.
        progressive: after so many steps the next pair joins; 0: all from the start.
    """

    loss: Literal["mse", "cosine"] = "mse"
    weight: float = 1.0
    attention: float = 0.0
    progressive: int = 0


def layer_pairs(
    layers: str | Sequence[int] | Mapping[int, int], n_student: int, n_teacher: int
) -> tuple[LayerPair, ...]:
    """Which blocks go together, from the bottom up.

    Args:
        layers: `EVEN` or a list: these blocks of the student follow those at the same relative depth, so that the last
            follows the last; or the teacher's block for each of the student's.
        n_student, n_teacher: numbers of blocks.

    Raises:
        ConfigError: there is no such block.
    """
    if isinstance(layers, Mapping):
        pairs = [LayerPair(one, other) for one, other in layers.items()]
    else:
        chosen = range(n_student) if isinstance(layers, str) else layers
        pairs = [LayerPair(one, ((one + 1) * n_teacher + n_student - 1) // n_student - 1) for one in chosen]
    for pair in pairs:
        _check_block(pair.student, n_student, "the student")
        _check_block(pair.teacher, n_teacher, "the teacher")
    return tuple(sorted(pairs, key=lambda pair: pair.student))


def _check_block(block: int, count: int, who: str) -> None:
    if not 0 <= block < count:
        raise ConfigError(
            f"there is no block {block}: {who} has {count}",
            where="distill.layers",
            hint=f"blocks are counted from 0 to {count - 1}",
        )


class LayerMatching(Module):
    """The layer-wise part of the objective, with its learned projections.

    Args:
        pairs: at least one.
        settings: see there.
        student, teacher: shapes of the models.
        backend: where it computes.
        seed: projections are drawn by (seed, name).
    """

    def __init__(
        self,
        pairs: Sequence[LayerPair],
        settings: MatchingSettings,
        student: DecoderSpec,
        teacher: DecoderSpec,
        backend: Backend,
        seed: int,
    ) -> None:
        self.pairs = tuple(pairs)
        self.settings = settings
        self.student = student
        self.teacher = teacher
        self.backend = backend
        self.projections: dict[int, Tensor] = {}
        if settings.weight > 0 and student.hidden_size != teacher.hidden_size:
            for pair in pairs:
                self.projections[pair.student] = self._projection(pair.student, seed)

    def _projection(self, block: int, seed: int) -> Tensor:
        """[D teacher, D student], from N(0, 1/D student), which keeps the size of what it maps."""
        name, n_in = f"{PROJECTION}.{block}.weight", self.student.hidden_size
        rng = np.random.default_rng([seed, crc32(name.encode())])
        values = rng.standard_normal((self.teacher.hidden_size, n_in), np.float32) / np.float32(np.sqrt(n_in))
        return Tensor(self.backend.asarray(values), self.backend, requires_grad=True, name=name)

    def parameters(self) -> dict[str, Tensor]:
        """The projections by name."""
        return {tensor.name: tensor for tensor in self.projections.values()}

    def student_taps(self) -> Taps:
        """What the student has to keep."""
        return self._taps(pair.student for pair in self.pairs)

    def teacher_taps(self) -> Taps:
        """What the teacher has to keep."""
        return self._taps(pair.teacher for pair in self.pairs)

    def _taps(self, blocks: Iterable[int]) -> Taps:
        return Taps(frozenset(blocks), attention=self.settings.attention > 0)

    def active(self, step: int) -> int:
        """How many pairs, from the bottom, take part in a step (counted from 0)."""
        every = self.settings.progressive
        return len(self.pairs) if every == 0 else min(len(self.pairs), 1 + step // every)

    def loss(self, student: Taps, teacher: Taps, batch: Batch, scale: float, step: int) -> Tensor:
        """scale · Σ over supervised positions of what the settings ask for, a mean over the pairs that take part."""
        n_active = self.active(step)
        terms = []
        with scope("distill.layers"):
            rows = self.backend.asarray(np.flatnonzero(batch.labels.reshape(-1) >= 0), np.int32)
            for pair in self.pairs[:n_active]:
                if self.settings.weight > 0:
                    share = scale * self.settings.weight / n_active
                    terms.append(self._hidden(pair, student, teacher, rows, share))
                if self.settings.attention > 0:
                    share = scale * self.settings.attention / n_active
                    terms.append(self._attention(pair, student, teacher, batch, share))
            terms += [self._idle(pair.student) for pair in self.pairs[n_active:] if pair.student in self.projections]
        total = terms[0]
        for term in terms[1:]:
            total = elementwise.add(total, term)
        return total

    def _hidden(self, pair: LayerPair, student: Taps, teacher: Taps, rows: object, scale: float) -> Tensor:
        width = self.student.hidden_size
        states = embedding.embedding(shape.reshape(student.states[pair.student], (-1, width)), rows)  # rows by index
        if (projection := self.projections.get(pair.student)) is not None:
            states = matmul.linear(states, projection)
        target = teacher.states[pair.teacher].data.reshape(-1, self.teacher.hidden_size)
        return hidden_match(states, self.backend.xp.take(target, rows, axis=0), self.settings.loss, scale)

    def _attention(self, pair: LayerPair, student: Taps, teacher: Taps, batch: Batch, scale: float) -> Tensor:
        return attention_match(
            student.queries[pair.student],
            student.keys[pair.student],
            teacher.queries[pair.teacher].data,
            teacher.keys[pair.teacher].data,
            self.backend.asarray(batch.starts, np.int32),
            self.backend.asarray(batch.labels >= 0, np.bool_),
            self.student.softmax_scale,
            self.teacher.softmax_scale,
            scale,
        )

    def _idle(self, block: int) -> Tensor:
        """Zero, with a gradient of zeros for the projection of a pair that has not joined yet."""
        projection = self.projections[block]
        return hidden_match(projection, projection.data, "mse", 0.0)
