"""The same documents laid out in packed rows, in rows of their own or in batches of their own, and a step over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.examples import Examples
from entrenar_core.data.loader import Loader
from entrenar_core.data.pack import fill, one_per_row
from entrenar_core.data.row_encoders import EncodedRow
from entrenar_core.data.tasks import Task
from entrenar_core.train.parts import Learner
from entrenar_core.train.step import StepBatches, accumulate_gradient

VOCAB, CLASSES, PAD = 60, ("no", "yes", "maybe"), 7

Result = tuple[float, dict[str, np.ndarray]]
"""Mean loss over the supervised tokens of a step, and its gradient by parameter."""


@dataclass(frozen=True)
class Tolerance:
    """How far two layouts may be apart.

    Attributes:
        loss: relative.
        gradient: relative, of the norm of each tensor and of each of its entries.
        small: an entry may also be off by `small` times the largest one of its tensor.
        zero: and by `zero` times the largest one of the whole gradient, and a tensor by as much of the whole norm. (A
            document of one position asks nothing of q and k: their gradient is 0 in the books and rounding in the
            machine.)
    """

    loss: float
    gradient: float
    small: float
    zero: float


FLOAT32 = Tolerance(loss=1e-5, gradient=1e-4, small=1e-5, zero=1e-6)
FLOAT64 = Tolerance(loss=1e-10, gradient=1e-10, small=1e-11, zero=1e-14)


def differences(actual: Result, expected: Result, tolerance: Tolerance) -> list[str]:
    """Everything in which two steps differ by more than the tolerance: "loss" and names of parameters."""
    found = [] if abs(actual[0] - expected[0]) <= tolerance.loss * abs(expected[0]) else ["loss"]
    assert actual[1].keys() == expected[1].keys()
    whole = np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in expected[1].values()))
    largest = max(np.abs(grad).max() for grad in expected[1].values())
    for name, grad in expected[1].items():
        off = np.abs(actual[1][name] - grad)
        norm_bound = tolerance.gradient * np.linalg.norm(grad) + tolerance.zero * whole
        bound = tolerance.gradient * np.abs(grad) + tolerance.small * np.abs(grad).max() + tolerance.zero * largest
        if not (np.linalg.norm(off) <= norm_bound and (off <= bound).all()):
            found.append(name)
    return found


def documents(lengths: Sequence[int], task: Task = Task.TEXT, seed: int = 0) -> Examples:
    """One example for each length, in positions, from the builder of the data pipeline.

    Text is trained everywhere, a chat in stretches of five tokens with context between them; a labelled document is
    asked once, at its end.
    """
    builder = ExampleBuilder(max(lengths), overlong=None)
    rows = [_row(length, task, np.random.default_rng([seed, index])) for index, length in enumerate(lengths)]
    builder.add(rows, "drop")
    examples = builder.finish()
    assert examples.lengths.tolist() == list(lengths)
    return examples


def _row(length: int, task: Task, rng: np.random.Generator) -> EncodedRow:
    tokens = rng.integers(0, VOCAB, length + 1).tolist()
    if task is Task.CLASSIFICATION:
        tokens[-1] = int(rng.integers(len(CLASSES)))
    elif task is Task.REGRESSION:
        tokens[-1] = 0
    elif task is Task.CHAT:
        trained = np.repeat(rng.random(length // 5 + 1) < 0.4, 5)[: length + 1]
        trained[rng.integers(1, length + 1)] = True
        return EncodedRow(tokens, trained.tobytes())
    else:
        return EncodedRow(tokens, b"\1" * (length + 1))
    value = float(rng.normal(10, 4)) if task is Task.REGRESSION else None
    return EncodedRow(tokens, bytes(length) + b"\1", n_last=1, value=value)


def epoch(examples: Examples, *, packing: bool, window: int | None = None) -> list[Batch]:
    """The shuffled batches of an epoch, three rows each; the longest document fills the window unless it is given."""
    seq_len = int(examples.lengths.max()) if window is None else window
    return list(Loader(examples, batch_size=3, seq_len=seq_len, packing=packing, seed=5, pad_id=PAD).epoch(0))


def alone(examples: Examples) -> list[Batch]:
    """Each document in a batch of its own, without a padding position."""
    return [
        fill(examples, one_per_row(np.array([index])), seq_len=int(length), pad_id=PAD)
        for index, length in enumerate(examples.lengths)
    ]


def step(model: Learner, batches: Sequence[Batch]) -> Result:
    """One optimizer step over all the batches, up to the gradient."""
    parameters = model.trainable()
    for tensor in parameters.values():
        tensor.zero_grad()
    passes = StepBatches(step=0, first=0, epoch=0, batches=batches, next_epoch=1, next_batch=0).passes(seed=0)
    done = accumulate_gradient(model, passes)
    assert done is not None
    return float(done.total()), {name: np.array(tensor.grad) for name, tensor in parameters.items()}


def places(batch: Batch) -> Iterator[np.ndarray]:
    """For each document of a batch, bool [B, T]: the positions it fills; what is asked nothing is padding."""
    for row, starts in enumerate(batch.starts):
        for start in np.unique(starts):
            place = np.zeros(batch.tokens.shape, bool)
            place[row] = starts == start
            if (batch.labels[place] != IGNORE).any():
                yield place


def read_back(batches: Sequence[Batch]) -> list[tuple[bytes, ...]]:
    """What the model is given of each document, in an order of their own: tokens, labels, positions and values."""
    return sorted(
        tuple(
            part[place].tobytes()
            for part in (batch.tokens, batch.labels, batch.positions, batch.values)
            if part is not None
        )
        for batch in batches
        for place in places(batch)
    )
