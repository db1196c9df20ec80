"""The training loop on the CUDA backend: the CPU's numbers, one wait a step, and nothing spoilt by a bad step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.data.batch import Batch
from entrenar_core.errors import TrainingError
from entrenar_core.events import Step
from entrenar_core.model.module import PassKey
from entrenar_core.train.checkpoint import read_checkpoint
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits
from tests.train.tiny_model import Listener, TinyModel, trainer

pytestmark = [
    pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

BAD_STEP = 3


def device() -> Any:
    return CudaBackend(host_runtime.HostRuntime(), "float32")


class Spoilt(TinyModel):
    """In one micro-batch its loss or its gradient is multiplied by what is not finite."""

    def __init__(self, backend: Any, what: str) -> None:
        super().__init__(backend)
        self.what = what

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        loss = super().loss(batch, scale, key)
        if key is None or (key.step, key.micro_batch) != (BAD_STEP, 1):
            return loss
        if self.what == "loss":
            return elementwise.scale(loss, np.inf)
        return elementwise.add(loss, elementwise.sqrt(elementwise.scale(loss, 0.0)))  # √0 has an infinite slope


def test_a_run_learns_what_the_reference_learns() -> None:
    heard = []
    for backend in (None, device()):
        listener = Listener()
        model = TinyModel(backend, dropout=0.2)
        trainer(reporter=listener, learner=model, grad_accum=2, grad_clip=0.5).run()
        heard.append([(step.loss, step.grad_norm) for step in listener.of(Step)])
    assert len(heard[0]) > 4
    np.testing.assert_allclose(heard[1], heard[0], rtol=1e-4)


def test_the_host_waits_once_a_step() -> None:
    counts = []

    class Counting(Listener):
        def emit(self, event: Any) -> None:
            counts.append(waits["count"])

    trainer(reporter=Counting(), learner=TinyModel(device()), grad_accum=3, total_steps=5).run()
    assert np.diff(counts).tolist() == [1] * 4


@pytest.mark.parametrize("what", ["loss", "norm of the gradient"])
def test_a_step_that_is_not_finite_leaves_the_state_of_the_step_before(tmp_path: Path, what: str) -> None:
    good = TinyModel(device())
    trainer(learner=good, grad_accum=2, total_steps=BAD_STEP, schedule=trainer().schedule).run()
    bad = Spoilt(device(), what)
    with pytest.raises(TrainingError, match=f"the {what} at step {BAD_STEP + 1} is (nan|inf)"):
        trainer(tmp_path, learner=bad, grad_accum=2).run()
    saved = read_checkpoint(tmp_path / "checkpoints" / f"step-{BAD_STEP:06d}")
    assert saved.state.step == BAD_STEP
    for name, values in good.values().items():
        np.testing.assert_array_equal(bad.values()[name], values)
        np.testing.assert_array_equal(saved.parameters()[name], values)
        assert bad.tensors[name].grad is None
