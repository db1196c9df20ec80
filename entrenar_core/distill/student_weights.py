"""The weights of a student: the teacher's, and where it is narrower the rows and columns that matter most.

What matters is measured: the mean squares of what each matrix of the teacher is multiplied by, over some rows of data.
A channel of the residual stream counts by what the norms of all blocks make of it, each norm counting alike (Minitron,
Muralidharan et al. 2024); a neuron or a head by the mean square of what it adds to the residual stream, the sum of
E[x_j²]·‖W_j‖² over its columns of ffn_down or attn_output (the squares of Wanda's scores, Sun et al. 2024). Channels
are the same in all blocks; heads and neurons are chosen block by block, heads within the groups that share a key/value
head. By the size of weights alone the choice was worse than a random one where we measured it.

A norm divides by the root mean square of the channels that are left, so its weight is multiplied by that root's share
of the whole one: channels that carry nothing go without a trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.distill.student import StudentPlan
from entrenar_core.gguf.names import OUTPUT, OUTPUT_NORM, ROPE_FREQS, TOKEN_EMBD, block_tensor
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import random_weight
from entrenar_core.model.load import read_rope_factors

AXES: Mapping[str, tuple[str, ...]] = {
    "token_embd": ("", "hidden"),
    "output": ("", "hidden"),
    "output_norm": ("hidden",),
    "attn_norm": ("hidden",),
    "attn_q": ("query", "hidden"),
    "attn_k": ("kv", "hidden"),
    "attn_v": ("kv", "hidden"),
    "attn_output": ("hidden", "query"),
    "attn_q_norm": ("",),
    "attn_k_norm": ("",),
    "ffn_norm": ("hidden",),
    "ffn_gate": ("ffn", "hidden"),
    "ffn_up": ("ffn", "hidden"),
    "ffn_down": ("hidden", "ffn"),
}
"""What the rows and columns of a weight are; a bias has the rows of its weight. Empty: nothing is left out there."""

AFTER_NORMS: Mapping[str, str] = {"attn_norm": "attn_q", "ffn_norm": "ffn_gate"}
"""The norms of a block, and one of the matrices that read what each makes."""

Activity = Mapping[str, np.ndarray]
"""Mean squares of the inputs of the teacher's matrices, [in], by name."""

_TINY = float(np.finfo(np.float64).tiny)

Kept = Mapping[str, np.ndarray]
"""Indices that are kept, rising, by the kind of an axis; of kinds that are missing everything is."""


def build_student(
    plan: StudentPlan, backend: Backend, seed: int, activity: Activity, *, checkpoint_activations: bool = False
) -> LanguageModel:
    """The student on a backend, every weight trainable; equal calls make equal models. See `student_weights`.

    Raises:
        FormatError: a tensor of the teacher cannot be decoded.
    """
    weights = {
        name: Tensor(backend.asarray(values), backend, requires_grad=True, name=name)
        for name, values in student_weights(plan, seed, activity)
    }
    factors = read_rope_factors(plan.teacher)
    return LanguageModel(
        plan.spec, weights, backend, rope_factors=factors, checkpoint_activations=checkpoint_activations
    )


def student_weights(plan: StudentPlan, seed: int, activity: Activity) -> Iterator[tuple[str, np.ndarray]]:
    """Name and start value, float32, of each weight, one after another.

    Args:
        plan: of the student.
        seed: of random weights.
        activity: of every matrix of the blocks that are copied, where the plan chooses inside of them; else empty.

    Raises:
        FormatError: a tensor of the teacher cannot be decoded.
    """
    shapes = {name: shape for name, shape in plan.shapes().items() if name != ROPE_FREQS}
    if plan.blocks is None:
        for name, shape in shapes.items():
            yield name, random_weight(name, shape, plan.spec.num_layers, seed)
        return
    choice = _Choice(plan, activity)
    channels = choice.outside()
    inside = {block: channels | choice.inside(block) for block in plan.blocks}
    for name in shapes:
        source = plan.source(name)
        kept = inside[int(source.split(".")[1])] if source.startswith("blk.") else channels
        values = _part(plan.teacher.load(source), source, kept)
        if "hidden" in channels and source in choice.readers:
            values *= np.float32(choice.norm_factor(source, channels["hidden"]))
        yield name, values


def _part(values: np.ndarray, name: str, kept: Kept) -> np.ndarray:
    """The kept rows and columns of a tensor."""
    kinds = AXES[name.split(".")[-2]]
    for axis in range(values.ndim):
        if kinds[axis] in kept:
            values = np.take(values, kept[kinds[axis]], axis=axis)
    return values


class _Choice:
    """What is kept of a teacher's blocks."""

    def __init__(self, plan: StudentPlan, activity: Activity) -> None:
        self.plan = plan
        self.activity = activity

    @property
    def readers(self) -> dict[str, str]:
        """Every norm on the way through the copied blocks, and a matrix that reads what it makes."""
        found = {
            block_tensor(block, norm): block_tensor(block, reader)
            for block in self.plan.blocks or ()
            for norm, reader in AFTER_NORMS.items()
        }
        return found | {OUTPUT_NORM: TOKEN_EMBD if self.plan.spec.tie_embeddings else OUTPUT}

    def outside(self) -> dict[str, np.ndarray]:
        """The channels of the residual stream that are kept, of all blocks the same; empty where all of them are."""
        count, whole = self.plan.spec.hidden_size, self.plan.teacher_spec.hidden_size
        if count == whole:
            return {}
        importance = np.zeros(whole)
        for reader in self.readers.values():
            squares = self.activity[reader].astype(np.float64)
            importance += squares / max(squares.sum(), _TINY)
        return {"hidden": _largest(importance, count)}

    def norm_factor(self, norm: str, channels: np.ndarray) -> float:
        """The root mean square of the kept channels before a norm, as a share of that of all of them."""
        weight = self.plan.teacher.load(norm).astype(np.float64)
        made = self.activity[self.readers[norm]]
        squares = np.divide(made, weight**2, out=np.zeros_like(weight), where=weight != 0)
        return float(np.sqrt(squares[channels].mean() / max(squares.mean(), _TINY)))

    def inside(self, block: int) -> dict[str, np.ndarray]:
        """What is kept inside of one block, by the kind of axis."""
        spec, whole = self.plan.spec, self.plan.teacher_spec
        kept = {}
        if (spec.num_heads, spec.num_kv_heads) != (whole.num_heads, whole.num_kv_heads):
            kept["query"], kept["kv"] = self._heads(self._written(block_tensor(block, "attn_output")))
        if spec.intermediate_size < whole.intermediate_size:
            kept["ffn"] = _largest(self._written(block_tensor(block, "ffn_down")), spec.intermediate_size)
        return kept

    def _heads(self, written: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of attn_q and of attn_k that are kept: in each group the heads that add most, and of the groups those
        whose kept heads do."""
        spec, size = self.plan.spec, self.plan.spec.head_dim
        by_group = written.reshape(self.plan.teacher_spec.num_kv_heads, -1, size).sum(axis=2)
        best = [_largest(np.asarray(heads), spec.num_heads // spec.num_kv_heads) for heads in by_group]
        added = np.array([heads[chosen].sum() for heads, chosen in zip(by_group, best, strict=True)])
        groups = _largest(added, spec.num_kv_heads)
        heads = [group * by_group.shape[1] + best[group] for group in groups]
        return _rows(np.concatenate(heads), size), _rows(groups, size)

    def _written(self, name: str) -> np.ndarray:
        """The mean square of what each column of a matrix adds to the residual stream, float64."""
        values = self.plan.teacher.load(name)
        squares: np.ndarray = np.einsum("ij,ij->j", values, values, dtype=np.float64)
        return squares * self.activity[name]


def _largest(importance: np.ndarray, count: int) -> np.ndarray:
    """The indices of the `count` largest, rising; of equal ones the first."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])


def _rows(heads: np.ndarray, size: int) -> np.ndarray:
    """The rows of whole heads."""
    return (heads[:, None] * size + np.arange(size)).ravel()
