"""Whether work is worth a GPU: when it takes a CPU at least five times as long as moving it to the GPU takes.

Both sides are reckoned from the sizes of the work with round numbers for a desktop, none of which was measured on a
GPU: the rule keeps the GPU away from what a CPU has done before a GPU has started. It is asked once, for a whole run or
stage. Merging and quantizing are no such work: they compute little on each byte and wait for the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TIMES_THE_MOVE = 5
CPU_FLOPS = 5e11
"""Float32 operations a second: two cores reach 2e11, sixteen 1e12 and more."""
CPU_BYTES = 40e9
"""Bytes of weights a second that a CPU reads when it writes one token after another."""
COPY_BYTES = 5e9
"""Bytes of the model a second from its file to the GPU."""
START_SECONDS = 2.0
"""For CUDA, its libraries and the kernels to be there."""

WorkKind = Literal["train", "evaluate", "generate", "calibrate"]


@dataclass(frozen=True)
class Work:
    """What a run or stage computes, as far as it is known before it starts.

    Attributes:
        kind: train computes gradients too, the others pass forward alone.
        parameters: of the model.
        n_bytes: of its files.
        tokens: that are read, padding included, many at a time.
        written: tokens that are written, one after another.
        adapters_only: training leaves the model's own weights alone.
    """

    kind: WorkKind
    parameters: int
    n_bytes: int
    tokens: int
    written: int = 0
    adapters_only: bool = False

    @property
    def cpu_seconds(self) -> float:
        """On a CPU: two operations for a parameter and token forward, as many for its input's gradient, and as many
        for its own."""
        passes = 1 if self.kind != "train" else 2 if self.adapters_only else 3
        seconds_a_token = 2 * self.parameters / CPU_FLOPS
        return passes * self.tokens * seconds_a_token + self.written * max(seconds_a_token, self.n_bytes / CPU_BYTES)

    @property
    def move_seconds(self) -> float:
        """To start the GPU and copy the model there."""
        return START_SECONDS + self.n_bytes / COPY_BYTES

    @property
    def device_bytes(self) -> int:
        """That the weights alone take there: two a parameter if they are frozen, or less if they are packed; eighteen
        with float32 weights, gradients and two moments, and weights cast for products."""
        if self.kind == "train" and not self.adapters_only:
            return 18 * self.parameters
        return min(self.n_bytes, 2 * self.parameters)


@dataclass(frozen=True)
class Worth:
    """Whether work is worth a GPU, and why, in words that follow a colon."""

    is_worth: bool
    reason: str


def worth_a_gpu(work: Work) -> Worth:
    """Whether a CPU would take five times as long as the move to a GPU."""
    is_worth = work.cpu_seconds >= TIMES_THE_MOVE * work.move_seconds
    against = "at least" if is_worth else "less than"
    return Worth(
        is_worth,
        f"a CPU would take about {_duration(work.cpu_seconds)}, {against} {TIMES_THE_MOVE} times the"
        f" {_duration(work.move_seconds)} of starting a GPU and copying the model",
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else f"{seconds:.1f} seconds"
