"""What contestants are asked to train, as one message says it, and how much memory that takes, roughly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarks.gpu.child import Message
from benchmarks.shapes import BY_NAME, Shape

Kind = Literal["lora", "qlora", "full"]

RANK = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")

_CONTEXTS = 3 << 30
"""What two processes hold on a device before they hold anything."""

_USABLE = 0.92
"""Of a device's memory, before pools break it into pieces that are too small."""


@dataclass(frozen=True)
class Task:
    """One training step.

    Attributes:
        shape: name of a shape of `benchmarks.shapes`.
        kind: adapters on a bfloat16 base, on a base in blocks of 4 bits, or every weight.
        rows, length: of a batch.
        checkpointing: activations of a layer are computed again in backward.
    """

    shape: str
    kind: Kind
    rows: int
    length: int = 2048
    checkpointing: bool = False

    @property
    def sizes(self) -> Shape:
        return BY_NAME[self.shape]

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def flops(self) -> float:
        """Of a step, as MFU counts them."""
        return self.tokens * self.sizes.step_flops_per_token(self.length, self.kind == "full")

    def message(self) -> Message:
        return asdict(self)

    @classmethod
    def of(cls, message: Any) -> Task:
        return cls(**message)


def resident_bytes(task: Task) -> float:
    """What a contestant holds between steps: weights, and for full training gradients, two moments, a cast copy."""
    shape = task.sizes
    if task.kind == "full":
        return 18.0 * shape.n_weights
    outside = 2.0 * shape.hidden * shape.vocab
    return 2 * outside + (0.57 if task.kind == "qlora" else 2.0) * (shape.n_weights - outside)


def step_bytes(task: Task) -> float:
    """What a step of the hungrier contestant adds: activations of transformers' llama in eager mode, and logits."""
    shape = task.sizes
    kv = shape.kv_heads * shape.head_dim
    layer = 16.0 * shape.hidden + 4 * kv + 6 * shape.ffn
    if task.kind == "full":
        layer += 2 * shape.hidden + 2 * shape.ffn
    kept = 2.0 * shape.hidden * shape.layers + layer if task.checkpointing else shape.layers * layer
    decoded = 2.0 * shape.hidden * shape.ffn if task.kind == "qlora" else 0.0
    return task.tokens * (kept + 12.0 * shape.vocab) + decoded


@dataclass(frozen=True)
class Fit:
    """A task that fits a device, and whether all contestants may hold their weights at once."""

    task: Task
    together: bool


def fit(task: Task, contestants: int, memory_bytes: float) -> Fit | None:
    """The task with as many rows as fit, halved until they do; None if one row does not.

    Contestants hold their weights at once if that costs no more than half of the rows.
    """
    usable = _USABLE * memory_bytes - _CONTEXTS
    alone = _largest(task, usable - resident_bytes(task))
    if alone is None:
        return None
    together = _largest(task, usable - contestants * resident_bytes(task))
    if together is not None and 2 * together.rows >= alone.rows:
        return Fit(together, together=True)
    return Fit(alone, together=contestants == 1)


def _largest(task: Task, room: float) -> Task | None:
    while step_bytes(task) > room:
        if task.rows == 1:
            return None
        task = replace(task, rows=task.rows // 2)
    return task
