"""What the training loop does, when, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import Batch
from entrenar_core.data.loader import Loader
from entrenar_core.errors import DataError
from entrenar_core.events import Eval, Notice, Saved, Step
from entrenar_core.optim.adam import AdamW
from entrenar_core.optim.schedule import Schedule
from entrenar_core.optim.sgd import SGD
from entrenar_core.train.callbacks import Callback
from entrenar_core.train.evaluate import mean_loss
from entrenar_core.train.loop import Trainer, TrainResult
from entrenar_core.train.settings import EarlyStopping
from tests.train.tiny_model import Listener, TinyModel, counting_data, loader, trainer

VAL = loader(6, seed=2, shuffle=False)


def test_training_lowers_the_loss() -> None:
    listener = Listener()
    trainer(reporter=listener, total_steps=120).run()
    losses = listener.losses()
    assert np.mean(losses[-10:]) < 0.5 * losses[0]


def test_each_step_is_reported_with_its_number_rate_and_tokens() -> None:
    listener, schedule = Listener(), Schedule("linear", peak=0.1, total_steps=20)
    result = trainer(reporter=listener, schedule=schedule).run()
    steps = listener.of(Step)
    assert [event.step for event in steps] == list(range(1, 21))
    assert [event.lr for event in steps] == [schedule.learning_rate(step) for step in range(20)]
    assert sum(event.tokens for event in steps) == result.state.tokens
    assert sum(event.supervised_tokens for event in steps) == result.state.supervised_tokens
    assert [event.epoch for event in steps[7:9]] == [1.0, 1.125]
    assert all(event.seconds > 0 and event.peak_memory_bytes > 1e6 for event in steps)
    assert (result.reason, result.state.step, result.state.train_loss) == ("all steps are done", 20, steps[-1].loss)


def test_batches_wrap_around_epochs_and_every_batch_of_an_epoch_comes_once() -> None:
    source, taken = loader(15, batch_size=3), []

    class Recording:
        def batches_per_epoch(self, epoch: int) -> int:
            return source.batches_per_epoch(epoch)

        def epochs_done(self, epoch: int, batches: int) -> float:
            return source.epochs_done(epoch, batches)

        def batch(self, epoch: int, index: int) -> Batch:
            taken.append((epoch, index))
            return source.batch(epoch, index)

    trainer(train=Recording(), total_steps=6, grad_accum=2).run()
    assert taken == [(epoch, index) for epoch in (0, 1) for index in range(5)]


def test_gradients_are_clipped_to_the_global_norm() -> None:
    listener, model = Listener(), TinyModel(ReferenceBackend(np.float64))
    before = model.values()
    trainer(
        reporter=listener,
        learner=model,
        optimizer=SGD(model.trainable()),
        schedule=Schedule("constant", peak=1.0, total_steps=1),
        total_steps=1,
        grad_clip=0.01,
    ).run()
    moved = np.sqrt(sum(((model.values()[name] - before[name]) ** 2).sum() for name in before))
    assert listener.of(Step)[0].grad_norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_gradient_accumulation_trains_like_the_large_batch() -> None:
    ends = []
    for batch_size, grad_accum in ((12, 1), (3, 4)):
        model = TinyModel(ReferenceBackend(np.float64))
        source = Loader(counting_data(), batch_size=batch_size, seq_len=16, shuffle=False)
        trainer(learner=model, train=source, grad_accum=grad_accum, total_steps=10).run()
        ends.append(model.values())
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-8, atol=1e-10)


def test_no_gradients_are_left_behind() -> None:
    model = TinyModel()
    trainer(learner=model).run()
    assert all(tensor.grad is None for tensor in model.tensors.values())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [8, 16, 20]),
        ({"eval_every": 6}, [6, 12, 18, 20]),
        ({"eval_every": 10}, [10, 20]),
        ({"grad_accum": 4}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
    ],
)
def test_evaluations_come_at_their_steps_or_epochs_and_at_the_end(
    settings: dict[str, Any], expected: list[int]
) -> None:
    listener = Listener()
    trainer(reporter=listener, val=VAL, **settings).run()
    assert [event.step for event in listener.evaluations()] == expected


def test_the_validation_loss_is_the_mean_over_supervised_tokens_without_dropout() -> None:
    model = TinyModel(ReferenceBackend(np.float64), dropout=0.5)
    table, up, out = (model.tensors[f"{name}.weight"].data for name in ("token_embd", "ffn_up", "output"))
    losses = []
    for example in (VAL.examples[i] for i in range(len(VAL.examples))):
        x = table[example.tokens[:-1]]
        z = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) @ up.T
        logits = (x + z / (1 + np.exp(-z))) @ out.T
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        targets = example.tokens[1:]
        losses += (-log_p[np.arange(len(targets)), targets])[example.supervised[1:]].tolist()
    found = mean_loss(model, VAL)
    assert found is not None
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert found.supervised_tokens == len(losses)


def test_validation_data_without_targets_are_an_error() -> None:
    batch = VAL.batch(0, 0)
    empty = Batch(batch.tokens, np.full_like(batch.labels, -100), batch.positions, batch.starts, batch.n_tokens, 0)

    class Untrained:
        def batches_per_epoch(self, epoch: int) -> int:
            return 1

        def epochs_done(self, epoch: int, batches: int) -> float:
            return float(epoch + batches)

        def batch(self, epoch: int, index: int) -> Batch:
            return empty

    with pytest.raises(DataError, match="no supervised token"):
        mean_loss(TinyModel(), Untrained())


def test_a_step_without_supervised_tokens_is_skipped_and_said() -> None:
    source = loader(9, batch_size=3)
    empty_at = 1

    class WithAHole:
        def batches_per_epoch(self, epoch: int) -> int:
            return source.batches_per_epoch(epoch)

        def epochs_done(self, epoch: int, batches: int) -> float:
            return source.epochs_done(epoch, batches)

        def batch(self, epoch: int, index: int) -> Batch:
            batch = source.batch(epoch, index)
            if index != empty_at:
                return batch
            return Batch(batch.tokens, batch.labels * 0 - 100, batch.positions, batch.starts, batch.n_tokens, 0)

    listener, model = Listener(), TinyModel()
    optimizer = AdamW(model.trainable())
    result = trainer(reporter=listener, learner=model, optimizer=optimizer, train=WithAHole(), total_steps=3).run()
    assert [event.step for event in listener.of(Step)] == [1, 3]
    assert [notice.message for notice in listener.of(Notice)] == [
        "step 2 has no supervised token (epoch 0, batch 1): skipped"
    ]
    assert (result.state.step, optimizer.steps_done) == (3, 2)


def rising(reporter: Listener, **settings: Any) -> TrainResult:
    """A run whose validation loss rises: it learns data that go the other way."""
    settings = {"total_steps": 200, "eval_every": 5, **settings}
    schedule = Schedule("constant", peak=0.05, total_steps=200)
    return trainer(reporter=reporter, val=VAL, schedule=schedule, **settings).run()


def test_early_stopping_waits_as_long_as_it_is_patient() -> None:
    listener = Listener()
    result = rising(listener, early_stopping=EarlyStopping(patience=3))
    losses = [event.loss for event in listener.evaluations()]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    assert result.reason == "the validation loss did not improve in 3 evaluations"
    assert (result.state.best_step, result.state.best_val_loss) == (5 * (best + 1), min(losses))


def test_the_best_evaluation_is_marked() -> None:
    listener = Listener()
    trainer(reporter=listener, val=VAL, eval_every=4).run()
    evaluations = listener.evaluations()
    bests = [event.loss == min(e.loss for e in evaluations[: i + 1]) for i, event in enumerate(evaluations)]
    assert [event.is_best for event in evaluations] == bests


class Diary(Callback):
    """Writes down what it is called for."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_step_end(self, trainer: Trainer, event: Step) -> None:
        self.lines.append(f"step {event.step}")

    def on_eval(self, trainer: Trainer, event: Eval) -> None:
        self.lines.append(f"eval {event.step}")

    def on_save(self, trainer: Trainer, event: Saved) -> None:
        self.lines.append(f"save {trainer.state.step}")

    def on_stop(self, trainer: Trainer, result: TrainResult) -> None:
        self.lines.append(f"stop: {result.reason}")


def test_callbacks_hear_everything_in_order(tmp_path: Any) -> None:
    diary = Diary()
    trainer(tmp_path, val=VAL, total_steps=4, eval_every=2, save_every=3, save_best=False, callbacks=[diary]).run()
    assert diary.lines == [
        *("step 1", "step 2", "eval 2", "step 3", "save 3", "step 4", "eval 4", "save 4"),
        "stop: all steps are done",
    ]


def test_a_callback_can_end_the_run_with_an_evaluation_and_a_checkpoint(tmp_path: Any) -> None:
    class Enough(Diary):
        def on_step_end(self, trainer: Trainer, event: Step) -> None:
            super().on_step_end(trainer, event)
            if event.step == 3:
                trainer.stop("it is good enough")

    diary = Enough()
    result = trainer(tmp_path, val=VAL, callbacks=[diary]).run()
    assert diary.lines[2:] == ["step 3", "eval 3", "save 3", "stop: it is good enough"]
    assert result.reason == "it is good enough"
    assert result.checkpoint == tmp_path / "checkpoints" / "step-000003"


def test_the_optimizer_must_hold_what_the_learner_trains() -> None:
    model = TinyModel()
    some = dict(list(model.trainable().items())[:2])
    with pytest.raises(ValueError, match="exactly the learner's trainable parameters"):
        trainer(learner=model, optimizer=AdamW(some))


def test_a_turn_is_announced_before_anything_is_done_at_its_step() -> None:
    seen: list[tuple[str, int]] = []

    class Recording(Callback):
        def on_turn(self, trainer: Trainer) -> None:
            seen.append(("turn", trainer.state.step))

        def on_eval(self, trainer: Trainer, event: Eval) -> None:
            seen.append(("eval", event.step))

        def on_step_end(self, trainer: Trainer, event: Step) -> None:
            seen.append(("step", event.step))

    trainer(val=VAL, total_steps=2, eval_every=1, callbacks=[Recording()]).run()
    assert seen == [("turn", 0), ("step", 1), ("turn", 1), ("eval", 1), ("step", 2), ("turn", 2), ("eval", 2)]


def test_evaluations_before_the_first_that_is_judged_neither_stop_the_run_nor_are_the_best() -> None:
    listener = Listener()
    result = trainer(
        reporter=listener,
        val=VAL,
        eval_every=1,
        total_steps=30,
        schedule=Schedule("constant", peak=0.5, total_steps=30),
        judged_from=10,
        early_stopping=EarlyStopping(patience=1, min_delta=1e9),
    ).run()
    evaluations = listener.evaluations()
    assert min(event.step for event in evaluations if event.is_best) == 10
    assert result.state.step == 11, "the second evaluation that counts ends the run"
