"""A loss or gradient that is not finite stops the run, names the op, and costs nothing but the bad step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, reduce
from entrenar_core.autograd.tape import NonFiniteError
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.data.batch import Batch
from entrenar_core.errors import TrainingError
from entrenar_core.model.module import PassKey
from entrenar_core.train.checkpoint import read_checkpoint
from tests.train.tiny_model import TinyModel, loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

BAD_STEP, BAD_MICRO = 4, 1


class Exploding(TinyModel):
    """Its loss passes through a factor of 1 that becomes another one in one micro-batch."""

    def __init__(self, factor: float, *, inside: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.inside = inside

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        loss = super().loss(batch, scale, key)
        if key is None or (key.step, key.micro_batch) != (BAD_STEP, BAD_MICRO):
            return loss
        if self.inside:  # √0 = 0 has an infinite slope
            return elementwise.add(loss, elementwise.sqrt(elementwise.scale(loss, 0.0)))
        return elementwise.scale(loss, self.factor)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_the_op_the_step_and_the_batch(tmp_path: Path, factor: float) -> None:
    with pytest.raises(TrainingError, match=f"the loss at step {BAD_STEP + 1} is {factor}") as caught:
        trainer(tmp_path, learner=Exploding(factor), grad_accum=2).run()
    assert "op 'scale'" in caught.value.message
    assert "(epoch 1, batch 1)" in caught.value.message
    assert "optimizer.lr" in str(caught.value.hint)
    assert isinstance(caught.value.__cause__, NonFiniteError)


def test_a_gradient_that_is_not_finite_names_the_op_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"norm of the gradient at step {BAD_STEP + 1} is (nan|inf)") as caught:
        trainer(tmp_path, learner=Exploding(0.0, inside=True), grad_accum=2).run()
    assert "the gradient of op 'sqrt'" in caught.value.message
    assert "(epoch 1, batch 1)" in caught.value.message


def test_a_sum_of_finite_gradients_that_overflows_is_said_to_be_one(tmp_path: Path) -> None:
    class Steep(TinyModel):
        def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
            steep = elementwise.scale(reduce.sum_(self.tensors["attn_norm.weight"]), 2e38)  # float32 ends at 3.4e38
            return elementwise.add(super().loss(batch, scale, key), steep)

    model = Steep()
    model.tensors["attn_norm.weight"].data[...] = 0
    with pytest.raises(TrainingError, match="norm of the gradient at step 1 is inf: no single op"):
        trainer(tmp_path, learner=model, grad_accum=2).run()


@pytest.mark.parametrize("settings", [{"factor": np.nan}, {"factor": 0.0, "inside": True}])
def test_the_last_good_state_is_kept_in_memory_and_on_disk(tmp_path: Path, settings: dict[str, Any]) -> None:
    good = TinyModel()
    trainer(learner=good, grad_accum=2, total_steps=BAD_STEP, schedule=trainer().schedule).run()
    bad = Exploding(**settings)
    with pytest.raises(TrainingError):
        trainer(tmp_path, learner=bad, grad_accum=2).run()
    saved = read_checkpoint(tmp_path / "checkpoints" / f"step-{BAD_STEP:06d}")
    assert saved.state.step == BAD_STEP
    for name, values in good.values().items():
        np.testing.assert_array_equal(bad.tensors[name].data, values)
        np.testing.assert_array_equal(saved.parameters()[name], values)
        assert bad.tensors[name].grad is None


def test_a_validation_loss_that_is_not_finite_names_the_op_and_keeps_the_training(tmp_path: Path) -> None:
    class BadInEvaluation(TinyModel):
        def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
            loss = super().loss(batch, scale, key)
            return loss if key is not None else elementwise.scale(loss, np.inf)

    with pytest.raises(TrainingError, match=r"the validation loss is inf: op 'scale'.*\(validation batch 0\)"):
        trainer(tmp_path, learner=BadInEvaluation(), val=loader(6), eval_every=7).run()
    assert (tmp_path / "checkpoints" / "step-000007").is_dir()


def test_a_weight_that_was_bad_from_the_start_is_named(tmp_path: Path) -> None:
    model = TinyModel()
    model.tensors["ffn_up.weight"].data[0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"'ffn_up\.weight' was not finite already"):
        trainer(tmp_path, learner=model).run()
    assert not (tmp_path / "checkpoints").exists()
