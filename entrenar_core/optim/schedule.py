"""The learning rate of each step: a warm-up, then constant, linear or cosine.

It is a pure function of the step number, so a resumed run needs no state of it. Steps count from 0. The warm-up rises
from peak/warmup_steps in the first step to the peak in its last, so that no step is wasted on a rate of zero; from then
on the curves are those of transformers, and reach their floor one step after the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["constant", "linear", "cosine"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Schedule:
    """Learning rates of a run.

    Attributes:
        kind: how the rate goes after the warm-up.
        peak: the highest rate.
        total_steps: of the run, warm-up included.
        warmup_steps: how many steps rise; may be more than there are.
        min_lr_ratio: linear and cosine: the floor as a share of the peak.
    """

    kind: Kind
    peak: float
    total_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0

    def learning_rate(self, step: int) -> float:
        """The rate of step `step`; from `total_steps` on it is the floor (constant: the peak)."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.peak * (self.min_lr_ratio + (1 - self.min_lr_ratio) * self._shape(progress))

    def _shape(self, progress: float) -> float:
        """From 1 to 0 (or not) while `progress` goes from 0 to 1; cosine: Loshchilov & Hutter 2017."""
        if self.kind == "constant":
            return 1.0
        if self.kind == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_steps(warmup: float, total_steps: int) -> int:
    """An int is a number of steps; a float is a fraction of `total_steps`, rounded up."""
    if isinstance(warmup, int):
        return warmup
    return math.ceil(warmup * total_steps - 1e-9)  # 0.07·100 is a little more than 7 in floating point
