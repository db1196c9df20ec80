"""Checkpoints on disk: whole or not there, refused when torn, pruned down to the last few and the best."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import FormatError, OutputError
from entrenar_core.events import Notice
from entrenar_core.optim.adam import AdamW
from entrenar_core.train.checkpoint import MANIFEST, MODEL, OPTIMIZER, read_checkpoint
from entrenar_core.train.checkpoint_store import CheckpointStore, latest_checkpoint
from entrenar_core.train.environment import describe_environment
from entrenar_core.train.state import TrainState
from tests.train.tiny_model import RECORD, Listener, TinyModel


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", RECORD, keep_last=2)


@pytest.fixture
def optimizer() -> AdamW:
    return AdamW(TinyModel().trainable())


def test_what_was_saved_is_read_back_exactly(store: CheckpointStore, optimizer: AdamW) -> None:
    state = TrainState(step=7, epoch=1, batch=3, train_loss=1 / 3, best_step=4)
    saved = store.save(state, optimizer)
    assert saved.path == store.folder / "step-000007"
    assert saved.n_bytes == sum(file.stat().st_size for file in saved.path.iterdir())
    checkpoint = read_checkpoint(saved.path)
    assert (checkpoint.state, checkpoint.record) == (state, RECORD)
    for name, parameter in optimizer.parameters.items():
        np.testing.assert_array_equal(checkpoint.parameters()[name], parameter.data)
    state_arrays = optimizer.state()
    assert checkpoint.optimizer_state().keys() == state_arrays.keys()
    for name, array in checkpoint.optimizer_state().items():
        assert array.dtype == state_arrays[name].dtype
        np.testing.assert_array_equal(array, state_arrays[name])


def test_equal_states_give_equal_bytes(tmp_path: Path, optimizer: AdamW) -> None:
    folders = []
    for name in ("a", "b"):
        folders.append(CheckpointStore(tmp_path / name, RECORD).save(TrainState(step=1), optimizer).path)
    for file in (MODEL, OPTIMIZER, MANIFEST):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_the_manifest_tells_a_person_what_it_belongs_to(store: CheckpointStore, optimizer: AdamW) -> None:
    manifest = json.loads((store.save(TrainState(step=1), optimizer).path / MANIFEST).read_text())
    assert manifest["format"] == "entrenar-checkpoint"
    assert manifest["run"]["config"] == RECORD.config
    assert manifest["run"]["config_hash"] == RECORD.config_hash()
    assert manifest["run"]["environment"] == RECORD.environment
    assert manifest["files"][MODEL]["bytes"] == (store.path(1) / MODEL).stat().st_size


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


BREAKS = {
    "a torn model": (lambda folder: tear(folder / MODEL), r"model\.safetensors.*bytes instead of"),
    "a changed bit": (lambda folder: flip(folder / OPTIMIZER), r"optimizer\.safetensors.*not what was written"),
    "a missing file": (lambda folder: (folder / MODEL).unlink(), r"model\.safetensors.*missing"),
    "a torn manifest": (lambda folder: tear(folder / MANIFEST), r"state\.json.*cannot be read"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "there is no checkpoint here"),
    "another format": (lambda folder: (folder / MANIFEST).write_text("{}"), "is not the manifest of a checkpoint"),
    "a list": (lambda folder: (folder / MANIFEST).write_text("[1]"), "is not the manifest of a checkpoint"),
}


def edited(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


BREAKS |= {
    "a version from the future": (lambda folder: edited(folder, version=2), "version 2; this release reads 1"),
    "a missing section": (lambda folder: edited(folder, files=None), "'files' is missing"),
    "an incomplete run": (lambda folder: edited(folder, run={}), "record of the run is incomplete"),
    "a bad state": (lambda folder: edited(folder, state={"step": 1}), "training state"),
    "promises of nothing": (lambda folder: edited(folder, files={}), "missing"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_checkpoint_is_refused_and_passed_over(store: CheckpointStore, optimizer: AdamW, how: str) -> None:
    older = store.save(TrainState(step=1), optimizer).path
    newer = store.save(TrainState(step=2), optimizer).path
    spoil, message = BREAKS[how]
    spoil(newer)
    with pytest.raises(FormatError, match=message):
        read_checkpoint(newer)
    listener = Listener()
    found = latest_checkpoint(store.folder, listener)
    assert found is not None
    assert found.path == older
    assert [notice.level for notice in listener.of(Notice)] == ["warning"]
    assert "step-000002 is broken" in listener.of(Notice)[0].message


def test_the_newest_is_the_one_of_the_highest_step(store: CheckpointStore, optimizer: AdamW) -> None:
    for step in (9, 10, 1_000_000):
        store.save(TrainState(step=step), optimizer)
    found = latest_checkpoint(store.folder, Listener())
    assert found is not None
    assert found.state.step == 1_000_000


def test_there_may_be_none(store: CheckpointStore) -> None:
    assert latest_checkpoint(store.folder, Listener()) is None


def test_unfinished_and_foreign_things_are_no_checkpoints(store: CheckpointStore, optimizer: AdamW) -> None:
    store.save(TrainState(step=1), optimizer)
    for name in (".tmp-step-000005", "step-abc", "notes"):
        (store.folder / name).mkdir()
    (store.folder / "step-000009").write_text("a file")
    listener = Listener()
    found = latest_checkpoint(store.folder, listener)
    assert found is not None
    assert (found.state.step, listener.events) == (1, [])


def test_the_last_few_and_the_best_are_kept(store: CheckpointStore, optimizer: AdamW) -> None:
    for step in range(1, 7):
        store.save(TrainState(step=step, best_step=2 if step >= 2 else None), optimizer)
    assert store.steps() == [2, 5, 6]


def test_what_a_crash_left_behind_is_cleared_away(store: CheckpointStore, optimizer: AdamW) -> None:
    leftover = store.folder / ".tmp-step-000003"
    leftover.mkdir(parents=True)
    (leftover / MODEL).write_bytes(b"half")
    store.save(TrainState(step=4), optimizer)
    assert [path.name for path in store.folder.iterdir()] == ["step-000004"]


def test_a_finished_checkpoint_is_never_overwritten(store: CheckpointStore, optimizer: AdamW) -> None:
    store.save(TrainState(step=1), optimizer)
    with pytest.raises(OutputError, match="exists already"):
        store.save(TrainState(step=1), optimizer)
    assert read_checkpoint(store.path(1)).state.step == 1


def test_later_checkpoints_are_discarded(store: CheckpointStore, optimizer: AdamW) -> None:
    store = replace_keep(store, 9)
    for step in (1, 2, 3):
        store.save(TrainState(step=step), optimizer)
    store.discard_after(1)
    assert store.steps() == [1]


def replace_keep(store: CheckpointStore, keep_last: int) -> CheckpointStore:
    return CheckpointStore(store.folder, store.record, keep_last=keep_last)


def test_two_runs_are_not_mixed(store: CheckpointStore, optimizer: AdamW) -> None:
    store.require_empty()
    store.save(TrainState(step=3), optimizer)
    with pytest.raises(OutputError, match="of step 3") as caught:
        store.require_empty()
    assert "--resume" in str(caught.value.hint)


def test_a_place_that_is_a_file_is_an_error(store: CheckpointStore, optimizer: AdamW) -> None:
    store.folder.write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        store.save(TrainState(step=1), optimizer)


def test_the_config_hash_does_not_depend_on_the_order_of_keys() -> None:
    turned = replace(RECORD, config=dict(reversed(RECORD.config.items())))
    assert turned.config_hash() == RECORD.config_hash()
    assert replace(RECORD, config={}).config_hash() != RECORD.config_hash()


def test_the_environment_names_versions_machine_and_threads() -> None:
    found = describe_environment(backend="cpu", threads=3)
    assert found["threads"] == 3
    assert found["numpy"] == np.__version__
    assert json.loads(json.dumps(found)) == found
