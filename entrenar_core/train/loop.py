"""The only training loop: steps, evaluations, checkpoints and ways to end, for whatever is trained.

A turn of the loop looks at the state and does what is due: stop if asked, evaluate, save, finish, or take one optimizer
step. A run that is resumed enters at the same place with the same state, so it does what the first would have done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals

from entrenar_core.backend.clipping import LossAndNorm
from entrenar_core.errors import EntrenarError
from entrenar_core.events import Eval, Notice, Reporter, SilentReporter, Step
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.clip import clip
from entrenar_core.optim.schedule import Schedule
from entrenar_core.train.callbacks import Callback
from entrenar_core.train.checkpoint_store import CheckpointStore
from entrenar_core.train.evaluate import mean_loss
from entrenar_core.train.interrupt import Interrupted, StopSignal
from entrenar_core.train.memory import peak_memory_bytes
from entrenar_core.train.metrics import MetricsFile
from entrenar_core.train.parts import BatchSource, ExplainedLearner, Learner
from entrenar_core.train.settings import TrainSettings
from entrenar_core.train.state import TrainState
from entrenar_core.train.step import StepBatches, accumulate_gradient, step_error, take_batches


@dataclass(frozen=True)
class TrainResult:
    """How a run ended by itself. `seconds` counts from the start or the resume."""

    state: TrainState
    reason: str
    seconds: float
    checkpoint: Path | None
    best_checkpoint: Path | None


class Trainer:
    """Trains until the steps are done, a callback or early stopping ends it, or something goes wrong.

    Args:
        learner: gives losses; see `parts.Learner`.
        optimizer: over the learner's trainable parameters.
        schedule: of the learning rate.
        train: batches to train on.
        settings: length and rhythm.
        val: batches to evaluate on.
        checkpoints: where to save; None: nowhere.
        metrics: where to log; None: nowhere.
        reporter: hears steps, evaluations, saved checkpoints and notices.
        callbacks: see `callbacks.Callback`.
        stop: looked at between micro-batches.
        state: where to begin; from `resume.resume`, or the default for a new run.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        optimizer: Optimizer,
        schedule: Schedule,
        train: BatchSource,
        settings: TrainSettings,
        val: BatchSource | None = None,
        checkpoints: CheckpointStore | None = None,
        metrics: MetricsFile | None = None,
        reporter: Reporter | None = None,
        callbacks: Sequence[Callback] = (),
        stop: StopSignal | None = None,
        state: TrainState | None = None,
    ) -> None:
        if learner.trainable().keys() != optimizer.parameters.keys():
            raise ValueError("the optimizer must hold exactly the learner's trainable parameters")
        self.learner = learner
        self.optimizer = optimizer
        self.schedule = schedule
        self.train = train
        self.settings = settings
        self.val = val
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.reporter = SilentReporter() if reporter is None else reporter
        self.callbacks = callbacks
        self.signal = StopSignal() if stop is None else stop
        self.state = TrainState() if state is None else state
        self._stop_reason: str | None = None

    def stop(self, reason: str) -> None:
        """End the run after the step in progress; `reason` completes the sentence "the run ended: ..."."""
        self._stop_reason = reason

    def run(self) -> TrainResult:
        """Train to the end.

        Raises:
            Interrupted: a stop was requested; there is a checkpoint of the last complete step.
            TrainingError: a loss or gradient is not finite; there is a checkpoint of the last good step.
            OutputError: a checkpoint or the metrics cannot be written, or the folder holds another run.
        """
        started = time.perf_counter()
        self._open_files()
        while True:
            for callback in self.callbacks:
                callback.on_turn(self)
            self._leave_if_asked()
            if self._evaluation_is_due() and not self._evaluate():
                continue
            if self._save_is_due():
                self._save()
            reason = self._end_reason()
            if reason is not None:
                return self._finish(reason, time.perf_counter() - started)
            self._step()

    # one optimizer step

    def _step(self) -> None:
        started = time.perf_counter()
        taken = self._take()
        if taken.supervised_tokens == 0:
            self._skip(taken)
            return
        lr = self.schedule.learning_rate(self.state.step)
        update = self._update(taken, lr)
        if update is None:
            return
        self.state = self._state_after(taken, update.loss)
        event = Step(
            step=self.state.step,
            total_steps=self.settings.total_steps,
            epoch=self.train.epochs_done(taken.epoch, taken.first + len(taken.batches)),
            loss=update.loss,
            lr=lr,
            grad_norm=update.norm,
            tokens=taken.tokens,
            supervised_tokens=taken.supervised_tokens,
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak_memory_bytes(),
            parts=self.learner.explain() if isinstance(self.learner, ExplainedLearner) else {},
            peak_device_bytes=self.learner.backend.peak_device_bytes(),
        )
        self._log(event)
        for callback in self.callbacks:
            callback.on_step_end(self, event)

    def _take(self) -> StepBatches:
        """The batches of the step; data that are read while training may turn out to be damaged."""
        try:
            return take_batches(self.train, self.state, self.settings.grad_accum)
        except EntrenarError:
            self._save()
            raise

    def _update(self, taken: StepBatches, lr: float) -> LossAndNorm | None:
        """Take an optimizer step; None if a stop was requested before it."""
        try:
            done = accumulate_gradient(self.learner, taken.passes(self.settings.seed), self._is_asked)
            if done is None:
                return None
            clipping = clip(self.optimizer.parameters, self.settings.grad_clip, done.total())
            if not self.optimizer.step(lr, clipping):
                raise step_error(self.learner, done, clipping.read().norm, self.state.step)
            return clipping.read()
        except EntrenarError:
            self._save()
            raise
        finally:
            self.optimizer.zero_grad()

    def _skip(self, taken: StepBatches) -> None:
        self.state = self._state_after(taken, self.state.train_loss)
        message = f"step {self.state.step} has no supervised token (epoch {taken.epoch}, batch {taken.first}): skipped"
        self.reporter.emit(Notice("warning", message))

    def _state_after(self, taken: StepBatches, loss: float | None) -> TrainState:
        return replace(
            self.state,
            step=self.state.step + 1,
            epoch=taken.next_epoch,
            batch=taken.next_batch,
            tokens=self.state.tokens + taken.tokens,
            supervised_tokens=self.state.supervised_tokens + taken.supervised_tokens,
            train_loss=loss,
        )

    # evaluation

    def _evaluation_is_due(self) -> bool:
        if self.val is None or self.state.step == self.state.evaluated_step:
            return False
        every = self.settings.eval_every
        is_time = self.state.batch == 0 if every is None else self.state.step % every == 0
        return is_time or self._is_last_step()

    def _evaluate(self) -> bool:
        """Evaluate; False if it was given up because of a stop request."""
        started = time.perf_counter()
        assert self.val is not None
        try:
            found = mean_loss(self.learner, self.val, self._is_asked)
        except EntrenarError:
            self._save()
            raise
        if found is None:
            return False
        is_judged = self.state.step >= self.settings.judged_from
        limit = self.settings.early_stopping
        self.state = self.state.after_evaluation(found.loss, limit, is_judged=is_judged)
        event = Eval(
            step=self.state.step,
            loss=found.loss,
            supervised_tokens=found.supervised_tokens,
            seconds=time.perf_counter() - started,
            is_best=self.state.best_step == self.state.step,
            metrics=found.metrics,
        )
        self._log(event)
        for callback in self.callbacks:
            callback.on_eval(self, event)
        return True

    # checkpoints and the log

    def _open_files(self) -> None:
        """Leave nothing that belongs to another run or to a later step than where this one begins."""
        if self.checkpoints is not None and self.state.step == 0:
            self.checkpoints.require_empty()
        elif self.checkpoints is not None:
            self.checkpoints.discard_after(self.state.step)
        if self.metrics is not None:
            self.metrics.begin(self.state)

    def _save_is_due(self) -> bool:
        every = self.settings.save_every
        is_time = every is not None and self.state.step % every == 0
        is_best = self.settings.save_best and self.state.best_step == self.state.step
        return is_time or is_best or self._is_last_step()

    def _save(self) -> None:
        """Save a checkpoint of the state, unless there is one of this step: both lead to the same future."""
        step = self.state.step
        if self.checkpoints is None or step == 0 or self.checkpoints.path(step).exists():
            return
        if self.metrics is not None:
            self.metrics.sync()
        event = self.checkpoints.save(self.state, self.optimizer)
        self.reporter.emit(event)
        for callback in self.callbacks:
            callback.on_save(self, event)

    def _log(self, event: Step | Eval) -> None:
        if self.metrics is not None:
            self.metrics.append(event)
        self.reporter.emit(event)

    # ways to end

    def _is_asked(self) -> bool:
        return self.signal.requested is not None

    def _leave_if_asked(self) -> None:
        number = self.signal.requested
        if number is None:
            return
        self._save()
        place = f"{Signals(number).name} after step {self.state.step} of {self.settings.total_steps}"
        saved = self._existing(self.state.step)
        raise Interrupted(
            f"stopped by {place}; " + (f"the checkpoint is {saved}" if saved else "there is no checkpoint yet"),
            signal_number=number,
            hint="run the same command with --resume to go on" if saved else None,
        )

    def _is_last_step(self) -> bool:
        return self._stop_reason is not None or self.state.step >= self.settings.total_steps or self._is_stale()

    def _is_stale(self) -> bool:
        limit = self.settings.early_stopping
        return limit is not None and self.state.evals_without_improvement >= limit.patience

    def _end_reason(self) -> str | None:
        if self._stop_reason is not None:
            return self._stop_reason
        if self._is_stale():
            count = self.state.evals_without_improvement
            return f"the validation loss did not improve in {count} evaluation{'s' if count > 1 else ''}"
        return "all steps are done" if self.state.step >= self.settings.total_steps else None

    def _finish(self, reason: str, seconds: float) -> TrainResult:
        result = TrainResult(
            self.state, reason, seconds, self._existing(self.state.step), self._existing(self.state.best_step)
        )
        for callback in self.callbacks:
            callback.on_stop(self, result)
        return result

    def _existing(self, step: int | None) -> Path | None:
        if self.checkpoints is None or step is None or not self.checkpoints.path(step).exists():
            return None
        return self.checkpoints.path(step)
