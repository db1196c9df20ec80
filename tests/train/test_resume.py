"""A run that stops and goes on is the run that never stopped, bit by bit; another run is not gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ConfigError, FormatError, OutputError
from entrenar_core.events import Notice, Step
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.sgd import SGD
from entrenar_core.train.callbacks import Callback
from entrenar_core.train.checkpoint import MODEL, OPTIMIZER, RunRecord, read_checkpoint
from entrenar_core.train.checkpoint_store import CHECKPOINTS, latest_checkpoint
from entrenar_core.train.interrupt import Interrupted, StopSignal
from entrenar_core.train.loop import Trainer
from entrenar_core.train.metrics import WALL_CLOCK
from entrenar_core.train.resume import require_same_config, restore_parameters, resume
from entrenar_core.train.settings import EarlyStopping
from tests.train.tiny_model import RECORD, Listener, TinyModel, loader, trainer

Make = Callable[[Any], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": SGD,
    "momentum": lambda p: SGD(p, momentum=0.9, nesterov=True),
    "adam": Adam,
    "adamw": AdamW,
}


class StopAt(Callback):
    """Asks for a stop at a step, as Ctrl-C would."""

    def __init__(self, step: int, signal: StopSignal) -> None:
        self.step = step
        self.signal = signal

    def on_step_end(self, trainer: Trainer, event: Step) -> None:
        if event.step == self.step:
            self.signal.request()


def start(folder: Path, make: Make = AdamW, stop_at: int | None = None, **changes: Any) -> None:
    """A run from the beginning, interrupted after `stop_at` steps if that is given."""
    model, signal = TinyModel(dropout=0.3), StopSignal()
    callbacks = [] if stop_at is None else [StopAt(stop_at, signal)]
    run = trainer(
        folder, learner=model, optimizer=make(model.trainable()), stop=signal, callbacks=callbacks, **rhythm(changes)
    )
    if stop_at is None:
        run.run()
        return
    with pytest.raises(Interrupted):
        run.run()


def go_on(folder: Path, make: Make = AdamW, **changes: Any) -> Listener:
    """Resume in new objects from the newest checkpoint, and run to the end."""
    listener = Listener()
    model = TinyModel(dropout=0.3, seed=99)
    optimizer = make(model.trainable())
    checkpoint = latest_checkpoint(folder / CHECKPOINTS, listener)
    assert checkpoint is not None
    state = resume(checkpoint, optimizer, RECORD, listener)
    trainer(folder, learner=model, optimizer=optimizer, state=state, reporter=listener, **rhythm(changes)).run()
    return listener


def rhythm(changes: dict[str, Any]) -> dict[str, Any]:
    defaults = {"total_steps": 20, "grad_accum": 2, "eval_every": 3, "save_every": 4, "val": loader(6, shuffle=False)}
    return {**defaults, **changes}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what a clock says."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in found]


def assert_same_end(one: Path, other: Path) -> None:
    newest = [latest_checkpoint(folder / CHECKPOINTS, Listener()) for folder in (one, other)]
    assert newest[0] is not None
    assert newest[1] is not None
    assert newest[0].state == newest[1].state
    for file in (MODEL, OPTIMIZER):
        assert (newest[0].path / file).read_bytes() == (newest[1].path / file).read_bytes()
    assert lines(one) == lines(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stop_at", [1, 6, 19])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, name: str, stop_at: int) -> None:
    make = OPTIMIZERS[name]
    start(tmp_path / "straight", make)
    start(tmp_path / "stopped", make, stop_at=stop_at)
    listener = go_on(tmp_path / "stopped", make)
    assert listener.of(Step)[0].step == stop_at + 1
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")


def test_a_run_may_stop_as_often_as_it_likes(tmp_path: Path) -> None:
    start(tmp_path / "straight")
    start(tmp_path / "stopped", stop_at=2)
    for stop_at in (3, 7, 8, 12):
        signal = StopSignal()
        with pytest.raises(Interrupted):
            go_on(tmp_path / "stopped", stop=signal, callbacks=[StopAt(stop_at, signal)])
    go_on(tmp_path / "stopped")
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")


def test_a_crash_between_checkpoints_costs_only_the_steps_since(tmp_path: Path) -> None:
    class PowerCut(Callback):
        def on_step_end(self, trainer: Trainer, event: Step) -> None:
            if event.step == 11:
                raise RuntimeError("the power fails")

    start(tmp_path / "straight", save_best=False)
    with pytest.raises(RuntimeError, match="the power fails"):
        trainer(
            tmp_path / "crashed", learner=TinyModel(dropout=0.3), callbacks=[PowerCut()], **rhythm({"save_best": False})
        ).run()
    listener = go_on(tmp_path / "crashed", save_best=False)
    assert listener.of(Step)[0].step == 9
    assert_same_end(tmp_path / "straight", tmp_path / "crashed")


def test_patience_survives_a_resume(tmp_path: Path) -> None:
    settings = {"total_steps": 200, "early_stopping": EarlyStopping(patience=4), "val": loader(6, seed=2)}
    start(tmp_path / "straight", **settings)
    last = lines(tmp_path / "straight")[-1]["step"]
    assert last < 200
    start(tmp_path / "stopped", stop_at=last - 4, **settings)
    go_on(tmp_path / "stopped", **settings)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    start(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert go_on(tmp_path).events == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    start(tmp_path, total_steps=6)
    assert [event.step for event in go_on(tmp_path, total_steps=9).of(Step)] == [7, 8, 9]


def test_going_on_from_an_older_checkpoint_discards_what_came_after(tmp_path: Path) -> None:
    start(tmp_path / "straight", save_best=False, keep_last=9)
    start(tmp_path / "again", save_best=False, keep_last=9)
    model = TinyModel(dropout=0.3, seed=99)
    optimizer = AdamW(model.trainable())
    state = resume(read_checkpoint(tmp_path / "again" / CHECKPOINTS / "step-000008"), optimizer, RECORD, Listener())
    changes = rhythm({"save_best": False, "keep_last": 9})
    trainer(tmp_path / "again", learner=model, optimizer=optimizer, state=state, **changes).run()
    assert_same_end(tmp_path / "straight", tmp_path / "again")


def test_a_new_run_refuses_the_folder_of_another(tmp_path: Path) -> None:
    start(tmp_path, stop_at=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        start(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


# is it the same run?


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    start(folder, stop_at=2)
    return folder / CHECKPOINTS / "step-000002"


def with_config(**sections: dict[str, Any]) -> RunRecord:
    config = {name: {**RECORD.config.get(name, {}), **keys} for name, keys in sections.items()}
    return replace(RECORD, config={**RECORD.config, **config})


def notices_of(stopped: Path, record: RunRecord) -> list[str]:
    listener = Listener()
    resume(read_checkpoint(stopped), AdamW(TinyModel().trainable()), record, listener)
    return [notice.message for notice in listener.of(Notice)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (with_config(optimizer={"lr": 0.5}), r"optimizer\.lr: 0\.02 -> 0\.5"),
        (with_config(lora={"rank": 4}), r"lora: none -> \{'rank': 4\}"),
        (with_config(training={"seed": 4}), r"training\.seed: 3 -> 4"),
        (replace(RECORD, inputs={**RECORD.inputs, "base model": "b1"}), r"base model \(content\): b0 -> b1"),
    ],
)
def test_another_configuration_or_input_is_an_error_that_names_it(
    stopped: Path, record: RunRecord, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        notices_of(stopped, record)


def test_all_differences_are_named_at_once(stopped: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr.*training\.seed"):
        notices_of(stopped, with_config(optimizer={"lr": 0.5}, training={"seed": 4}))


def test_keys_that_change_nothing_so_far_are_free(stopped: Path) -> None:
    free = {"save_every": 1, "eval_every": 2, "log_every": 3, "keep_last": 4, "output_dir": "elsewhere", "threads": 2}
    assert notices_of(stopped, with_config(training=free, output={"type": "f16"})) == []


def test_a_cache_may_be_moved_but_not_changed(stopped: Path) -> None:
    checkpoint, cache = read_checkpoint(stopped), {"path": "here", "top_k": 8}
    taught = replace(checkpoint, record=with_config(distill={"cache": cache}))
    require_same_config(taught, with_config(distill={"cache": {**cache, "path": "there"}}).config)
    with pytest.raises(ConfigError, match=r"another run: distill\.cache\.top_k: 8 -> 9\n"):
        require_same_config(taught, with_config(distill={"cache": {**cache, "top_k": 9}}).config)


def test_lists_and_tuples_are_the_same_in_a_configuration(stopped: Path) -> None:
    assert notices_of(stopped, with_config(optimizer={"betas": (0.9, 0.999)})) == []


def test_a_new_length_is_said(stopped: Path) -> None:
    (message,) = notices_of(stopped, with_config(training={"max_steps": 40}))
    assert "training.max_steps changed from 20 to 40" in message


def test_another_machine_is_said(stopped: Path) -> None:
    (message,) = notices_of(stopped, replace(RECORD, environment={"numpy": "2.1", "threads": 8}))
    assert "may not be bit-exact: numpy 2.0 -> 2.1; threads 1 -> 8" in message


def test_a_parameter_of_another_shape_is_named_and_nothing_is_changed(stopped: Path) -> None:
    model = TinyModel(seed=5)
    tensor = model.tensors["ffn_up.weight"]
    model.tensors["ffn_up.weight"] = type(tensor)(
        tensor.data[:3].copy(), model.backend, requires_grad=True, name=tensor.name
    )
    before = model.values()
    with pytest.raises(FormatError, match=r"'ffn_up\.weight' has shape \(6, 6\) instead of \(3, 6\)"):
        restore_parameters(read_checkpoint(stopped), model.trainable())
    assert all(np.array_equal(before[name], values) for name, values in model.values().items())


def test_the_state_of_another_optimizer_is_refused(stopped: Path) -> None:
    with pytest.raises(FormatError, match=r"'momentum\..* is missing"):
        resume(read_checkpoint(stopped), SGD(TinyModel().trainable(), momentum=0.9), RECORD, Listener())
