"""The loop with the real decoder, adapters and the CPU backend: resume is bit-exact there too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.events import Step
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.optim.adam import AdamW
from entrenar_core.train.checkpoint_store import CHECKPOINTS, latest_checkpoint
from entrenar_core.train.interrupt import Interrupted, StopSignal
from entrenar_core.train.resume import resume
from tests.model.tiny import build, tiny_spec
from tests.train.test_resume import StopAt, assert_same_end
from tests.train.tiny_model import RECORD, Listener, loader, trainer

pytestmark = pytest.mark.integration

Make = Callable[[Backend], LanguageModel]
RHYTHM = {"total_steps": 12, "grad_accum": 2, "eval_every": 5, "save_every": 4}


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = CpuBackend(threads=2)
    yield backend
    backend.close()


def whole_model(backend: Backend) -> LanguageModel:
    return build(tiny_spec("qwen2", tie_embeddings=True), backend=backend, checkpoint_activations=True)


def adapted(backend: Backend) -> LanguageModel:
    model = build(tiny_spec(), backend=backend, trainable=False)
    inject_lora(model, LoRASettings(rank=4, alpha=8.0, dropout=0.2), seed=1)
    return model


def run(folder: Path, model: LanguageModel, stop_at: int | None = None, **changes: object) -> Listener:
    listener, signal = Listener(), StopSignal()
    optimizer = changes.pop("optimizer", None) or AdamW(model.trainable())
    arguments = {"val": loader(6, shuffle=False), "reporter": listener, "stop": signal, **RHYTHM, **changes}
    made = trainer(folder, learner=model, optimizer=optimizer, **arguments)
    if stop_at is None:
        made.run()
        return listener
    made.callbacks = [StopAt(stop_at, signal)]
    with pytest.raises(Interrupted):
        made.run()
    return listener


@pytest.mark.parametrize("make", [whole_model, adapted])
def test_an_interrupted_run_of_a_decoder_ends_like_an_uninterrupted_one(
    make: Make, backend: Backend, tmp_path: Path
) -> None:
    losses = run(tmp_path / "straight", make(backend)).losses()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])

    run(tmp_path / "stopped", make(backend), stop_at=7)
    model = make(backend)
    optimizer = AdamW(model.trainable())
    checkpoint = latest_checkpoint(tmp_path / "stopped" / CHECKPOINTS, Listener())
    assert checkpoint is not None
    state = resume(checkpoint, optimizer, RECORD, Listener())
    listener = run(tmp_path / "stopped", model, optimizer=optimizer, state=state)
    assert listener.of(Step)[0].step == 8
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
