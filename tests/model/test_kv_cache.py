"""Generating through the cache gives the logits of reading everything again."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.errors import AutogradError, ModelError
from entrenar_core.model.kv_cache import KVCache
from tests.model.tiny import ARCHITECTURE_NAMES, DOUBLE, build, tiny_spec, tokens_of


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("parts", [[1] * 9, [5, 1, 1, 1, 1], [3, 4, 2], [9]], ids=str)
def test_reading_in_parts_gives_the_logits_of_the_whole(architecture: str, parts: list[int]) -> None:
    model = build(tiny_spec(architecture))
    tokens = tokens_of(9)
    expected = model.logits(tokens[None])[0]
    cache = KVCache(model.spec, DOUBLE, capacity=12)
    end = 0
    for size in parts:
        logits = model.next_logits(tokens[end : end + size], cache)
        end += size
        assert logits.shape == (40,)
        assert cache.length == end
        np.testing.assert_allclose(logits, expected[end - 1], rtol=1e-10, atol=1e-12)


def test_checkpointing_does_not_disturb_the_cache() -> None:
    """Blocks are not run twice, which would append twice."""
    model = build(tiny_spec(), checkpoint_activations=True)
    tokens = tokens_of(6)
    cache = KVCache(model.spec, DOUBLE, capacity=6)
    model.next_logits(tokens[:4], cache)
    np.testing.assert_allclose(model.next_logits(tokens[4:], cache), model.logits(tokens[None])[0, -1], rtol=1e-10)


def test_a_full_cache_refuses_more_and_keeps_what_it_has() -> None:
    model = build(tiny_spec())
    tokens = tokens_of(8)
    cache = KVCache(model.spec, DOUBLE, capacity=6)
    model.next_logits(tokens[:5], cache)
    with pytest.raises(ModelError, match="the context of 6 tokens is full"):
        model.next_logits(tokens[5:7], cache)
    assert cache.length == 5
    np.testing.assert_allclose(model.next_logits(tokens[5:6], cache), model.logits(tokens[None, :6])[0, -1], rtol=1e-10)


def test_reading_no_token_is_refused() -> None:
    model = build(tiny_spec())
    with pytest.raises(ModelError, match="no tokens to read"):
        model.next_logits(np.zeros(0, np.int32), KVCache(model.spec, DOUBLE, capacity=4))


def test_gradients_through_a_cache_are_refused() -> None:
    model, tokens = build(tiny_spec()), tokens_of(1, 3)
    positions, lower = np.arange(3, dtype=np.int32)[None], np.zeros((1, 3), np.int32)
    with pytest.raises(AutogradError, match="KV cache"), Tape():
        model.hidden_states(tokens, positions, lower, cache=KVCache(model.spec, DOUBLE, capacity=4))
