"""Ctrl-C: the first stops the run at a safe place with a checkpoint, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.data.batch import Batch
from entrenar_core.model.module import PassKey
from entrenar_core.train.checkpoint import read_checkpoint
from entrenar_core.train.interrupt import Interrupted, StopSignal
from tests.train.tiny_model import TinyModel, loader, trainer


class InterruptedAt(TinyModel):
    """Gets real signals in the middle of a pass. key None stands for an evaluation."""

    def __init__(self, step: int | None, micro_batch: int = 0, signals: tuple[int, ...] = (signal.SIGINT,)) -> None:
        super().__init__()
        self.place = (step, micro_batch)
        self.signals = signals

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        if self.place == ((key.step, key.micro_batch) if key else (None, 0)):
            self.place = (-1, 0)
            for number in self.signals:
                os.kill(os.getpid(), number)
        return super().loss(batch, scale, key)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_checkpoint_and_the_shells_exit_code(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    with pytest.raises(Interrupted, match=f"{number.name} after step 6 of 20") as caught, StopSignal() as stop:
        trainer(tmp_path, learner=InterruptedAt(5, signals=(number,)), stop=stop).run()
    assert caught.value.exit_code == exit_code
    assert "--resume" in str(caught.value.hint)
    assert read_checkpoint(tmp_path / "checkpoints" / "step-000006").state.step == 6


def test_micro_batches_of_an_unfinished_step_are_given_up(tmp_path: Path) -> None:
    model = InterruptedAt(step=5, micro_batch=1)
    with pytest.raises(Interrupted, match="after step 5 of 20"), StopSignal() as stop:
        trainer(tmp_path, learner=model, grad_accum=4, stop=stop).run()
    assert read_checkpoint(tmp_path / "checkpoints" / "step-000005").state.batch == 4
    assert all(tensor.grad is None for tensor in model.tensors.values())


def test_an_unfinished_evaluation_is_given_up_and_due_again(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), StopSignal() as stop:
        trainer(tmp_path, learner=InterruptedAt(None), val=loader(), eval_every=3, stop=stop).run()
    state = read_checkpoint(tmp_path / "checkpoints" / "step-000003").state
    assert (state.evaluated_step, state.best_step) == (0, None)


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted, match="there is no checkpoint yet"):
        trainer(tmp_path, stop=stop).run()
    assert not (tmp_path / "checkpoints").exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    model = InterruptedAt(5, signals=(signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        trainer(tmp_path, learner=model, stop=stop).run()
    assert not (tmp_path / "checkpoints").exists()
    assert all(tensor.grad is None for tensor in model.tensors.values())


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
