"""What the training loop may be told, apart from the parts it is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` evaluations in a row that did not lower the loss by more than `min_delta`."""

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True)
class TrainSettings:
    """The length and rhythm of a run.

    Attributes:
        total_steps: optimizer steps of the whole run, those before a resume included.
        seed: names the dropout masks, together with step and micro-batch.
        grad_accum: batches whose gradients are summed for one step; the last step of an epoch may have fewer.
        grad_clip: largest global norm of the gradient; None: no clipping.
        eval_every: steps between evaluations; None: at the end of each epoch. There is one at the end of the run too.
        save_every: steps between checkpoints; None: only those that `save_best` and the end of the run ask for.
        save_best: save a checkpoint after each evaluation that is the best so far.
        early_stopping: None: never.
        judged_from: evaluations after fewer steps are logged, but are neither the best nor stop the run: those of a
            model that will be another one (before its weights are quantized).
    """

    total_steps: int
    seed: int = 42
    grad_accum: int = 1
    grad_clip: float | None = 1.0
    eval_every: int | None = None
    save_every: int | None = None
    save_best: bool = True
    early_stopping: EarlyStopping | None = None
    judged_from: int = 0
