"""Batched generation: what a prompt is continued with does not depend on what it shares a batch with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.model import generation
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Generated, Sampling, choose_tokens, generate_batch, next_tokens, uniform_draw
from entrenar_core.model.kv_cache import KVCache
from tests.model.tiny import ARCHITECTURE_NAMES, DOUBLE, build, lively_weights, tiny_spec, tokens_of

VOCAB = 40
LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2])).astype(np.float32)
MODELS = {architecture: build(tiny_spec(architecture), trainable=False) for architecture in ARCHITECTURE_NAMES}


def go_on(prompts: Sequence[Sequence[int]], model: LanguageModel | None = None, **options: Any) -> list[Generated]:
    wanted = {"max_tokens": 12, "sampling": Sampling(), "stop_ids": (), "vocab_size": VOCAB} | options
    return generate_batch(MODELS["llama"] if model is None else model, prompts, **wanted)


def greedy_without_cache(model: LanguageModel, prompt: Sequence[int], n_tokens: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(n_tokens):
        ids.append(int(model.logits(np.array([ids], np.int32))[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


# generating

prompt_lists = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60), min_size=1, max_size=6)


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_a_batch_goes_on_as_reading_everything_again_would(architecture: str) -> None:
    model = MODELS[architecture]
    prompts = [tokens_of(length, seed=length).tolist() for length in (9, 1, 4, 9)]
    assert [found.ids for found in go_on(prompts, model, max_tokens=6)] == [
        greedy_without_cache(model, prompt, 6) for prompt in prompts
    ]


@settings(max_examples=25, deadline=None)
@given(
    prompts=prompt_lists,
    stop_ids=st.sets(st.integers(0, VOCAB - 1), max_size=8),
    temperature=st.sampled_from([0.0, 1.0]),
    max_tokens=st.integers(1, 12),
)
def test_a_batch_is_its_rows_one_by_one(
    prompts: list[list[int]], stop_ids: set[int], temperature: float, max_tokens: int
) -> None:
    """Prompts of any lengths, up to four tokens before the context of 64 ends; rows that stop at any time."""
    options = {"stop_ids": stop_ids, "sampling": Sampling(temperature, 0.9, seed=3), "max_tokens": max_tokens}
    keys = [100 + 7 * number for number in range(len(prompts))]
    together = go_on(prompts, keys=keys, **options)
    assert together == [go_on([prompt], keys=[key], **options)[0] for prompt, key in zip(prompts, keys, strict=True)]
    backwards = go_on(prompts[::-1], keys=keys[::-1], **options)
    assert together == backwards[::-1]
    for prompt, found in zip(prompts, together, strict=True):
        assert not set(found.ids) & stop_ids
        if found.stop_id is None:
            assert len(found.ids) == min(max_tokens, 64 - len(prompt))
        else:
            assert found.stop_id in stop_ids


def test_the_cpu_backend_writes_the_same_in_a_batch() -> None:
    backend = CpuBackend(2)
    try:
        model = build(tiny_spec(), backend=backend, trainable=False)
        prompts = [tokens_of(length, seed=length).tolist() for length in (17, 3, 8, 30, 1)]
        assert go_on(prompts, model) == go_on(prompts) == [go_on([prompt], model)[0] for prompt in prompts]
    finally:
        backend.close()


def test_prompts_read_in_several_passes_are_the_same_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [tokens_of(length, seed=length).tolist() for length in (17, 3, 12)]
    expected = go_on(prompts)
    for tokens in (1, 6, 17 * 3, 18 * 3):
        monkeypatch.setattr(generation, "TOKENS_PER_PASS", tokens)
        assert go_on(prompts) == expected


def test_the_stop_token_is_named_and_not_part_of_the_text() -> None:
    prompt = tokens_of(5).tolist()
    (free,) = go_on([prompt])
    stop = free.ids[3]
    first = free.ids.index(stop)
    assert go_on([prompt], stop_ids=[stop]) == [Generated(free.ids[:first], stop)]


def test_no_prompts_give_nothing_and_no_tokens_an_empty_text() -> None:
    assert go_on([]) == []
    assert go_on([[1]], max_tokens=0) == [Generated((), None)]


def test_tokens_come_in_turns_of_the_prompts() -> None:
    options = {"max_tokens": 2, "sampling": Sampling(), "stop_ids": (), "vocab_size": VOCAB}
    turns = [number for number, _ in next_tokens(MODELS["llama"], [[1, 2], [3]], **options)]  # type: ignore[arg-type]
    assert turns == [0, 1, 0, 1]


def test_ids_without_a_token_are_never_chosen() -> None:
    assert max(go_on([[1, 2, 3]])[0].ids) >= 20
    assert max(go_on([[1, 2, 3]], vocab_size=20)[0].ids) < 20


def test_an_empty_prompt_and_one_without_room_are_refused_by_number() -> None:
    with pytest.raises(ModelError, match="prompt 1 has no tokens"):
        go_on([[1], []])
    with pytest.raises(ModelError, match="prompt 0 has 64 tokens and the model a context of 64"):
        go_on([[1] * 64])
    assert len(go_on([[1] * 63])[0].ids) == 1


def test_numbers_that_are_not_finite_are_an_error() -> None:
    weights = lively_weights(tiny_spec())
    weights["blk.1.ffn_up.weight"][0, 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        go_on([[1, 2]], build(tiny_spec(), weights))


# choosing


def frequencies(sampling: Sampling, draws: int = 8_000) -> np.ndarray:
    chosen = choose_tokens(np.broadcast_to(LOGITS, (draws, 5)), sampling, range(draws), position=2)
    return np.bincount(chosen, minlength=len(LOGITS)) / draws


def test_temperature_zero_takes_the_likeliest() -> None:
    assert choose_tokens(LOGITS[None], Sampling(), [0], 0).tolist() == [1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probabilities(temperature: float) -> None:
    expected = np.exp(LOGITS / temperature)
    found = frequencies(Sampling(temperature))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)  # 3.5 standard deviations


@pytest.mark.parametrize(("top_p", "kept"), [(0.39, [1]), (0.6, [1, 3]), (0.7, [1, 3, 4]), (0.96, range(5))])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: list[int]) -> None:
    expected = np.zeros(5)
    expected[list(kept)] = np.exp(LOGITS[list(kept)])
    found = frequencies(Sampling(1.0, top_p))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)


def test_a_tiny_temperature_takes_the_likeliest() -> None:
    assert set(choose_tokens(np.tile(LOGITS * 50, (50, 1)), Sampling(1e-320), range(50), 0)) == {1}


def test_draws_are_uniform_and_named_by_seed_key_and_position() -> None:
    draws = np.array(
        [uniform_draw(seed, key, position) for seed in range(9) for key in range(9) for position in range(99)]
    )
    assert len(set(draws)) == len(draws)
    assert 0 <= draws.min() < draws.max() < 1
    assert np.histogram(draws, 10, (0, 1))[0].std() < 3 * np.sqrt(len(draws) / 10)
    assert uniform_draw(-1, 2, 3) == uniform_draw(-1, 2, 3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.1}, "top-p is 1.1"),
    ],
)
def test_sampling_out_of_range_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**setting)


# the cache


@given(rows=st.integers(1, 7), data=st.data())
def test_dropping_rows_keeps_the_others_once(rows: int, data: st.DataObject) -> None:
    leaving = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows))
    cache = KVCache(tiny_spec(num_layers=1), DOUBLE, capacity=2, batch_size=rows)
    numbers = np.broadcast_to(np.arange(rows, dtype=np.float64)[:, None, None, None], (rows, 1, 1, 8))
    cache.extend(0, numbers, -numbers)
    cache.advance(1)
    order = cache.drop(leaving)
    assert sorted(order) == sorted(set(range(rows)) - leaving)
    assert cache.n_rows == len(order)
    assert cache.keys[0][: len(order), 0, 0, 0].tolist() == order
    assert (-cache.values[0][: len(order), 0, 0, 0]).tolist() == order


def test_a_cache_that_is_rewound_goes_on_with_something_else() -> None:
    model = MODELS["llama"]
    beginning, ends = tokens_of(5), [tokens_of(3, seed=1), tokens_of(4, seed=2)]
    cache = KVCache(model.spec, DOUBLE, capacity=9)
    model.next_logits(beginning, cache)
    for end in ends:
        found = model.next_logits(end, cache)
        whole = np.concatenate([beginning, end])
        np.testing.assert_allclose(found, model.logits(whole[None])[0, -1], rtol=1e-10, atol=1e-12)
        cache.rewind(5)
    with pytest.raises(ModelError, match="a cache of 5 tokens cannot be rewound to 6"):
        cache.rewind(6)


def test_who_asks_can_end_a_row_after_any_token() -> None:
    prompts = [tokens_of(length, seed=length).tolist() for length in (9, 3)]
    free = go_on(prompts)
    seen: dict[int, list[int]] = {0: [], 1: []}

    def is_over(number: int, token: int) -> bool:
        seen[number].append(token)
        return len(seen[number]) == 4 + number

    assert go_on(prompts, is_over=is_over) == [Generated(one.ids[: 4 + row], None) for row, one in enumerate(free)]
    assert [tuple(tokens) for tokens in seen.values()] == [one.ids[: 4 + row] for row, one in enumerate(free)]
