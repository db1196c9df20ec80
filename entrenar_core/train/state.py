"""Where a run is: everything besides weights and optimizer that the next step depends on, in plain numbers.

The state is frozen and replaced as a whole when a step or an evaluation is complete, so there is never half a step in
a checkpoint. Random draws are keyed by (seed, step, micro-batch) and batches by (epoch, index), so counters suffice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from entrenar_core.errors import FormatError
from entrenar_core.train.settings import EarlyStopping


@dataclass(frozen=True)
class TrainState:
    """Counters and the memory of evaluations.

    Attributes:
        step: optimizer steps done.
        epoch: of the next batch.
        batch: index in its epoch of the next batch.
        tokens: positions seen, without padding.
        supervised_tokens: targets learned from.
        train_loss: of the last step.
        val_loss: of the last evaluation.
        evaluated_step: step of the last evaluation; 0: none yet.
        best_val_loss: the lowest so far.
        best_step: when that was.
        stopping_loss: what early stopping wants to see beaten.
        evals_without_improvement: evaluations since it was.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    evaluated_step: int = 0
    best_val_loss: float | None = None
    best_step: int | None = None
    stopping_loss: float | None = None
    evals_without_improvement: int = 0

    def after_evaluation(
        self, loss: float, early_stopping: EarlyStopping | None, *, is_judged: bool = True
    ) -> TrainState:
        """The state after an evaluation at this step; one that is not judged is neither the best nor counted."""
        if not is_judged:
            return replace(self, val_loss=loss, evaluated_step=self.step)
        is_best = self.best_val_loss is None or loss < self.best_val_loss
        min_delta = early_stopping.min_delta if early_stopping else 0.0
        improved = self.stopping_loss is None or loss < self.stopping_loss - min_delta
        return replace(
            self,
            val_loss=loss,
            evaluated_step=self.step,
            best_val_loss=loss if is_best else self.best_val_loss,
            best_step=self.step if is_best else self.best_step,
            stopping_loss=loss if improved else self.stopping_loss,
            evals_without_improvement=0 if improved else self.evals_without_improvement + 1,
        )

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON object; floats survive exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object, where: str) -> TrainState:
        """Back from `to_json`.

        Raises:
            FormatError: a key is missing, unknown or of the wrong type.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(content, Mapping) or sorted(content) != sorted(names):
            raise FormatError(f"the training state must be an object with the keys {', '.join(names)}", where=where)
        for field in fields(cls):
            if not _fits(content[field.name], str(field.type)):
                raise FormatError(f"{field.name} is {content[field.name]!r} instead of {field.type}", where=where)
        return cls(**content)


def _fits(value: object, annotation: str) -> bool:
    """Whether a JSON value is an ``int``, ``int | None`` or ``float | None``."""
    if value is None:
        return "None" in annotation
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) if "float" in annotation else isinstance(value, int) and value >= 0
