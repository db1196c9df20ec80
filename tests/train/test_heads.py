"""A small model with adapters and a head learns what can be learned, is measured, and is resumed bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.data.loader import Loader
from entrenar_core.data.tasks import Task
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.heads import HeadSpec, SequenceModel, new_head
from entrenar_core.optim.adam import AdamW
from entrenar_core.optim.schedule import Schedule
from entrenar_core.train.checkpoint_store import CHECKPOINTS, latest_checkpoint
from entrenar_core.train.evaluate import mean_loss
from entrenar_core.train.interrupt import Interrupted, StopSignal
from entrenar_core.train.metrics import WALL_CLOCK
from entrenar_core.train.resume import resume
from tests.model.tiny import build, tiny_spec
from tests.train.test_resume import StopAt
from tests.train.tiny_model import RECORD, Listener, TinyModel, loader, trainer

MOOD = HeadSpec(Task.CLASSIFICATION, ("a", "b", "c"), "text", "mood")
SHARE = HeadSpec(Task.REGRESSION, (), "text", "share", mean=50.0, std=30.0)
MARKS = (7, 13, 21)
"""The token that gives each class away, wherever it stands."""


def marked_texts(size: int, seed: int) -> Examples:
    """Random tokens of which one in the middle is the mark of the class."""
    rng, store = np.random.default_rng(seed), ExampleStore()
    for _ in range(size):
        label, n = int(rng.integers(3)), int(rng.integers(4, 9))
        tokens = rng.integers(22, 40, n)
        tokens[rng.integers(n)] = MARKS[label]
        store.add([*tokens.tolist(), label], bytes(n) + b"\1")
    return store.finish(rows=size)


def mixed_texts(size: int, seed: int) -> Examples:
    """Eight tokens of two kinds; the target is the share of the first kind in percent."""
    rng, store = np.random.default_rng(seed), ExampleStore()
    for _ in range(size):
        is_first = rng.random(8) < rng.random()
        store.add([*np.where(is_first, 5, 30).tolist(), 0], bytes(8) + b"\1", 100.0 * float(is_first.mean()))
    return store.finish(rows=size)


def batches(examples: Examples, **options: Any) -> Loader:
    return Loader(examples, batch_size=8, seq_len=32, packing=True, seed=5, **options)


def adapted(spec: HeadSpec, backend: Backend, seed: int = 0, dropout: float = 0.0) -> SequenceModel:
    backbone = build(tiny_spec(), backend=backend)
    inject_lora(backbone, LoRASettings(rank=4, alpha=8, dropout=dropout), seed=seed)
    return new_head(backbone, spec, seed=seed)


def learned(spec: HeadSpec, train: Examples, val: Examples, cpu: CpuBackend) -> dict[str, float | None]:
    """Metrics on `val` after a short training on `train`."""
    listener, model = Listener(), adapted(spec, cpu)
    trainer(
        learner=model,
        optimizer=AdamW(model.trainable()),
        schedule=Schedule("cosine", peak=0.02, total_steps=300, warmup_steps=5),
        train=batches(train),
        val=batches(val, shuffle=False),
        total_steps=300,
        eval_every=300,
        reporter=listener,
    ).run()
    return dict(listener.evaluations()[-1].metrics)


@pytest.fixture
def cpu() -> Any:
    backend = CpuBackend(threads=1)
    yield backend
    backend.close()


def test_classes_that_can_be_told_apart_are_told_apart(cpu: CpuBackend) -> None:
    found = learned(MOOD, marked_texts(500, 1), marked_texts(100, 2), cpu)
    assert found["accuracy"] > 0.95
    assert found["macro_f1"] > 0.95


def test_a_number_that_the_text_determines_is_found(cpu: CpuBackend) -> None:
    found = learned(SHARE, mixed_texts(500, 1), mixed_texts(100, 2), cpu)
    assert found["r2"] > 0.9
    assert found["mae"] < 10


@pytest.mark.parametrize(("spec", "examples"), [(MOOD, marked_texts(20, 3)), (SHARE, mixed_texts(20, 3))])
def test_metrics_are_over_all_batches_however_they_are_cut(spec: HeadSpec, examples: Examples) -> None:
    model = adapted(spec, ReferenceBackend(np.float64))
    found = [
        mean_loss(model, Loader(examples, batch_size=size, seq_len=32, packing=packing))
        for size, packing in ((20, False), (3, False), (2, True))
    ]
    assert found[0] is not None
    for other in found[1:]:
        assert other is not None
        assert (other.loss, other.supervised_tokens) == (pytest.approx(found[0].loss, rel=1e-9), 20)
        assert dict(other.metrics) == pytest.approx(dict(found[0].metrics), rel=1e-9)


def test_a_language_model_has_no_metrics() -> None:
    found = mean_loss(TinyModel(), loader(6, shuffle=False))
    assert found is not None
    assert found.metrics == {}


def test_a_head_that_is_resumed_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(whole)
    signal = StopSignal()
    with pytest.raises(Interrupted):
        run(halves, stop=signal, callbacks=[StopAt(5, signal)])
    run(halves, go_on=True)
    assert final_tensors(whole) == final_tensors(halves)
    assert log(whole) == log(halves)
    assert any("accuracy" in line.get("metrics", {}) for line in log(whole))


def run(folder: Path, *, go_on: bool = False, **changes: Any) -> None:
    """12 steps of an adapted model with dropout; one that goes on starts from other weights, which must not matter."""
    model = adapted(MOOD, ReferenceBackend(np.float32), seed=9 if go_on else 0, dropout=0.3)
    optimizer = AdamW(model.trainable())
    if go_on:
        checkpoint = latest_checkpoint(folder / CHECKPOINTS, Listener())
        assert checkpoint is not None
        changes["state"] = resume(checkpoint, optimizer, RECORD, Listener())
    trainer(
        folder,
        learner=model,
        optimizer=optimizer,
        train=batches(marked_texts(60, 1)),
        val=batches(marked_texts(20, 2), shuffle=False),
        total_steps=12,
        eval_every=4,
        save_every=4,
        **changes,
    ).run()


def final_tensors(folder: Path) -> dict[str, bytes]:
    checkpoint = latest_checkpoint(folder / CHECKPOINTS, Listener())
    assert checkpoint is not None
    assert checkpoint.state.step == 12
    tensors = {**checkpoint.parameters(), **checkpoint.optimizer_state()}
    assert "cls.output.weight" in tensors
    return {name: values.tobytes() for name, values in tensors.items()}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]
