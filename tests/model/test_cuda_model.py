"""A whole model on the CUDA backend, its kernels run on the host: loss, gradients, generation, training.

In float32 everything is the reference's; in bfloat16 it is close, and the host waits no more often than it must.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Sampling, generate_batch
from entrenar_core.model.module import PassKey
from entrenar_core.optim.adam import AdamW
from entrenar_core.optim.clip import clip
from tests.backend.agreement import assert_close
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits
from tests.cuda_host.host_sdpa import HostSdpa
from tests.model.tiny import ARCHITECTURE_NAMES, DOUBLE, build, loss_and_gradients, pack, tiny_spec, tokens_of

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

BATCH = pack([[tokens_of(9, seed=1), tokens_of(7, seed=2)], [tokens_of(14, seed=3)]], 16)
KEY = PassKey(3, 1, 0)
HOST = CudaBackend(host_runtime.HostRuntime())
LORA = LoRASettings(rank=2, alpha=4.0, dropout=0.25, targets="all")


def device(compute_dtype: str) -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), compute_dtype)


def model_on(backend: Backend, *, lora: bool, architecture: str = "llama", **options: Any) -> LanguageModel:
    model = build(tiny_spec(architecture), backend=backend, **options)
    if lora:
        adapters = inject_lora(model, LORA, 5)
        for name, tensor in adapters.items():
            if name.endswith("lora_b"):
                tensor.assign(0.1 * np.random.default_rng(len(name)).standard_normal(tensor.shape))
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_loss_and_gradients_are_those_of_the_reference(architecture: str, lora: bool) -> None:
    options = {"lora": lora, "architecture": architecture}
    truth, true_gradients = loss_and_gradients(model_on(DOUBLE, **options), BATCH, 0.1, KEY)
    loss, gradients = loss_and_gradients(model_on(device("float32"), **options), BATCH, 0.1, KEY)
    assert loss == pytest.approx(truth, rel=1e-5)
    assert gradients.keys() == true_gradients.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, true_gradients[name], 3e-5, name)


def with_rounded_weights(model: LanguageModel) -> LanguageModel:
    """The model with its weights rounded to bfloat16, which is all that is rounded in it."""
    to_bfloat16 = HOST.runtime.bfloat16
    for tensor in model.parameters().values():
        tensor.assign(tensor.numpy().astype(to_bfloat16).astype(np.float64))
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_bfloat16_costs_no_more_digits_than_rounding_the_weights(lora: bool) -> None:
    """Errors of products, norms and sums would add to those of the weights if they were made in bfloat16."""
    truth, true_gradients = loss_and_gradients(model_on(DOUBLE, lora=lora), BATCH, 0.1, KEY)
    _, rounded = loss_and_gradients(with_rounded_weights(model_on(DOUBLE, lora=lora)), BATCH, 0.1, KEY)
    loss, gradients = loss_and_gradients(model_on(device("bfloat16"), lora=lora), BATCH, 0.1, KEY)
    assert loss == pytest.approx(truth, rel=0.002)
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}
    errors, expected = (
        {name: float(np.linalg.norm(some[name] - true) / np.linalg.norm(true)) for name, true in true_gradients.items()}
        for some in (gradients, rounded)
    )
    assert math.hypot(*errors.values()) < 1.5 * math.hypot(*expected.values())
    assert {name: error for name, error in errors.items() if error > 3 * expected[name]} == {}


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_checkpointed_activations_change_nothing(lora: bool, compute_dtype: str) -> None:
    plain = loss_and_gradients(model_on(device(compute_dtype), lora=lora), BATCH, 0.1, KEY)
    again = loss_and_gradients(model_on(device(compute_dtype), lora=lora, checkpoint_activations=True), BATCH, 0.1, KEY)
    assert plain[0] == again[0]
    for name, gradient in plain[1].items():
        np.testing.assert_array_equal(again[1][name], gradient, err_msg=name)


@pytest.mark.parametrize("checkpoint_activations", [False, True], ids=["kept", "checkpointed"])
def test_attention_of_a_library_is_as_good_as_that_in_blocks(checkpoint_activations: bool) -> None:
    by_library, in_blocks = CudaBackend(host_runtime.HostRuntime(), sdpa=HostSdpa()), device("bfloat16")
    options: dict[str, Any] = {"lora": True, "checkpoint_activations": checkpoint_activations}
    truth, *gradients = (
        loss_and_gradients(model_on(each, **options), BATCH, 0.1, KEY)[1] for each in (DOUBLE, by_library, in_blocks)
    )
    assert by_library.attention_paths == {"host": 6 if checkpoint_activations else 4}
    errors = [
        math.hypot(*(np.linalg.norm(some[name] - true) / np.linalg.norm(true) for name, true in truth.items()))
        for some in gradients
    ]
    assert errors[0] < 1.2 * errors[1] < 0.5


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_the_same_step_has_the_same_bits(compute_dtype: str) -> None:
    first, second = (loss_and_gradients(model_on(device(compute_dtype), lora=False), BATCH, 0.1) for _ in range(2))
    assert first[0] == second[0]
    for name, gradient in first[1].items():
        np.testing.assert_array_equal(second[1][name], gradient, err_msg=name)


def test_it_writes_what_the_cpu_writes() -> None:
    cpu = CpuBackend(1)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    options: dict[str, Any] = {"max_tokens": 8, "sampling": Sampling(temperature=0.0), "stop_ids": (), "vocab_size": 40}
    written = [generate_batch(model_on(backend, lora=True), prompts, **options) for backend in (cpu, device("float32"))]
    cpu.close()
    assert written[0] == written[1]
    assert len(generate_batch(model_on(device("bfloat16"), lora=True), prompts, **options)) == 2


@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_a_few_steps_learn_what_the_cpu_learns(compute_dtype: str, tolerance: float) -> None:
    cpu = CpuBackend(1)
    losses = []
    for backend in (cpu, device(compute_dtype)):
        model = model_on(backend, lora=False)
        optimizer = AdamW(model.trainable(), weight_decay=0.01)
        losses.append([])
        for number in range(5):
            loss, _ = loss_and_gradients(model, BATCH, 1 / BATCH.n_supervised, PassKey(0, number, 0))
            losses[-1].append(loss)
            optimizer.step(3e-3, clip(model.trainable(), 1.0))
    cpu.close()
    assert losses[0][-1] < losses[0][0] - 0.1
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_host_does_not_wait_before_the_update_is_queued(lora: bool) -> None:
    model = model_on(device("bfloat16"), lora=lora)
    loss_and_gradients(model, BATCH, 0.1, KEY)
    for tensor in model.trainable().values():
        tensor.zero_grad()
    before = waits["count"]
    with Tape() as tape:
        loss = model.loss(BATCH, 0.1, KEY)
    assert waits["count"] == before
    tape.backward(loss)
    optimizer = AdamW(model.trainable(), weight_decay=0.01)
    clipping = clip(model.trainable(), 1.0, loss.data)
    assert waits["count"] == before
    assert optimizer.step(1e-3, clipping)
    assert clipping.read().loss > 0
    assert waits["count"] == before + 1
