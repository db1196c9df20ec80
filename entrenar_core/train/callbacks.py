"""What may watch a run from inside and end it early. Reporters only listen; a callback sees the trainer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entrenar_core.events import Eval, Saved, Step

if TYPE_CHECKING:
    from entrenar_core.train.loop import Trainer, TrainResult


class Callback:
    """Base of callbacks: override what is wanted. They run in the order they were given, after the reporter.

    `trainer.stop(reason)` ends the run after the step in progress, with an evaluation and a checkpoint. A callback with
    a memory of its own starts afresh when a run is resumed.
    """

    def on_turn(self, trainer: Trainer) -> None:
        """A turn of the loop begins: `trainer.state` says which; it comes before the evaluation, the checkpoint and the
        step of that turn, and may come again with the same state."""

    def on_step_end(self, trainer: Trainer, event: Step) -> None:
        """The parameters have been updated."""

    def on_eval(self, trainer: Trainer, event: Eval) -> None:
        """The validation loss is known."""

    def on_save(self, trainer: Trainer, event: Saved) -> None:
        """A checkpoint is complete on disk."""

    def on_stop(self, trainer: Trainer, result: TrainResult) -> None:
        """The run has ended by itself; not called after an error or an interrupt."""
