"""A step on a device that does nothing takes what the same step takes where the kernels run on the host."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.initialize import random_model
from entrenar_core.model.module import PassKey
from entrenar_core.optim.build import build_optimizer
from entrenar_core.stages.device_memory import CONTEXT, estimate_device_memory
from entrenar_core.stages.dry_pass import PassMemory, dry_pass
from entrenar_core.stages.estimate import MemoryRequest
from tests.cuda_host import host_runtime
from tests.stages.test_dry_pass import full_batch, small_spec

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
ADAM = OptimizerConfig()
LORA = LoRASettings(rank=4, alpha=8.0, dropout=0.1, targets="all")
BATCHES = [(4, 64), (2, 96)]


def really_held(lora: LoRASettings | None, checkpointing: bool, compute_dtype: str) -> int:
    """The most bytes of arrays that were alive while steps were computed."""
    runtime = host_runtime.HostRuntime()
    backend = CudaBackend(runtime, compute_dtype)
    model = random_model(small_spec(), backend, 0, checkpoint_activations=checkpointing)
    if lora is not None:
        inject_lora(model, lora, 0)
    steps = build_optimizer(ADAM, model.trainable())
    for number, (rows, width) in enumerate(BATCHES):
        batch = full_batch(rows, width, None)
        with Tape() as tape:
            loss = model.loss(batch, 1.0 / batch.n_supervised, PassKey(0, number, 0))
        tape.backward(loss)
        steps.step(1e-3)
        steps.zero_grad()
        del tape, loss
    gc.collect()
    return runtime.peak_bytes()


def planned(lora: LoRASettings | None, checkpointing: bool, compute_dtype: str) -> PassMemory:
    return dry_pass(
        small_spec(), ADAM, BATCHES, lora=lora, checkpoint_activations=checkpointing, device_dtype=compute_dtype
    )


def total(memory: PassMemory) -> int:
    parts = (memory.weights, memory.adapters, memory.optimizer, memory.gradients, memory.activations, memory.work)
    return sum(parts)


@pytest.mark.parametrize("compute_dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_plan_is_what_a_real_step_holds(lora: LoRASettings | None, checkpointing: bool, compute_dtype: str) -> None:
    held, plan = (one(lora, checkpointing, compute_dtype) for one in (really_held, planned))
    too_small_to_count = 4 * plan.adapters  # arrays below the pool's smallest piece: state, gradient, cast
    assert held <= total(plan) * 1.01 + too_small_to_count
    assert total(plan) <= held * 1.35  # a pool keeps sizes apart, and rounds them up


def test_activations_in_bfloat16_take_half() -> None:
    float32, bfloat16 = (planned(LORA, False, dtype).activations for dtype in ("float32", "bfloat16"))
    assert 0.45 * float32 < bfloat16 < 0.65 * float32


def test_the_estimate_names_every_part() -> None:
    request = MemoryRequest(small_spec(), ADAM, BATCHES, lora=LORA)
    estimate = estimate_device_memory(request, "bfloat16")
    names = [name for name, _ in estimate.parts]
    assert names[:2] == ["CUDA", "weights"]
    assert {"adapters", "optimizer state", "gradients", "activations", "work buffers"} < set(names)
    assert estimate.total == estimate.needed > CONTEXT + 2 * 500 * 64
    assert np.all([n_bytes >= 0 for _, n_bytes in estimate.parts])
