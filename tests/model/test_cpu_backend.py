"""Whole models on the fast CPU backend: its pooled memory, threads and checkpointing leave no trace in the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.data.batch import Batch
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.kv_cache import KVCache
from entrenar_core.model.module import PassKey
from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively, loss_and_gradients, pack, tiny_spec, tokens_of

KEY = PassKey(1, 2, 3)

Result = tuple[float, dict[str, np.ndarray]]


@contextmanager
def cpu(**options: Any) -> Iterator[CpuBackend]:
    backend = CpuBackend(**options)
    try:
        yield backend
    finally:
        backend.close()


def large_spec(architecture: str) -> DecoderSpec:
    """Large enough that work is shared out and buffers are used again."""
    sizes = {"hidden_size": 96, "num_heads": 6, "num_kv_heads": 3, "head_dim": 16, "rope_dimensions": 16}
    return tiny_spec(architecture, **sizes, intermediate_size=160, vocab_size=300, num_layers=3)


def batch() -> Batch:
    rows = [[tokens_of(n, vocab_size=300, seed=n) for n in row] for row in ((61, 30), (90,), (17, 40, 33))]
    return pack(rows, 90)


def full_result(backend: CpuBackend, architecture: str, **options: Any) -> Result:
    return loss_and_gradients(build(large_spec(architecture), None, backend, **options), batch())


def lora_result(backend: CpuBackend, architecture: str, **options: Any) -> Result:
    model: LanguageModel = build(large_spec(architecture), None, backend, **options)
    for name, tensor in inject_lora(model, LoRASettings(4, 8.0, dropout=0.2), seed=0).items():
        tensor.assign(lively(name, tensor.shape))
    return loss_and_gradients(model, batch(), key=KEY)


def assert_identical(actual: Result, expected: Result) -> None:
    assert actual[0] == expected[0]
    assert actual[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        np.testing.assert_array_equal(actual[1][name], grad, err_msg=name)


@pytest.mark.parametrize("run", [full_result, lora_result], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_no_buffer_is_read_after_it_was_handed_back(run: Any, architecture: str) -> None:
    """With `debug_pool`, memory that returned to the pool reads as NaN."""
    with cpu(threads=2) as plain, cpu(threads=2, debug_pool=True) as poisoned:
        assert_identical(run(poisoned, architecture), run(plain, architecture))


@pytest.mark.parametrize("run", [full_result, lora_result], ids=["full", "lora"])
def test_checkpointing_changes_no_bit(run: Any) -> None:
    with cpu(threads=2, debug_pool=True) as backend:
        expected = run(backend, "llama")
        assert_identical(run(backend, "llama", checkpoint_activations=True), expected)


@pytest.mark.parametrize("run", [full_result, lora_result], ids=["full", "lora"])
def test_the_same_threads_give_the_same_bits_again(run: Any) -> None:
    with cpu(threads=2) as first, cpu(threads=2) as second:
        expected = run(first, "llama")
        assert_identical(run(first, "llama"), expected)
        assert_identical(run(second, "llama"), expected)


def test_generating_through_the_cache_reads_no_stale_memory() -> None:
    with cpu(threads=2, debug_pool=True) as backend:
        model = build(large_spec("llama"), None, backend, trainable=False)
        tokens = tokens_of(24, vocab_size=300)
        expected = model.logits(tokens[None])[0]
        cache = KVCache(model.spec, backend, capacity=24)
        model.next_logits(tokens[:20], cache)
        for i in range(20, 24):
            np.testing.assert_allclose(model.next_logits(tokens[i : i + 1], cache), expected[i], rtol=1e-4, atol=1e-4)
