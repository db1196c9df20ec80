"""Continues a batch of prompts token by token, through a KV cache.

Prompts are padded on the left, so that the last tokens of all stand in one column; `lower` hides the padding, and each
row counts its own positions. A row that ends leaves the cache, so the others go on in a smaller batch. Draws are keyed
by the seed, the row's key and the number of the token, so a text does not depend on what it was generated with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.autograd.tape import no_grad
from entrenar_core.backend.parameters import splitmix64
from entrenar_core.data.batch import Int32Array
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.kv_cache import KVCache

IsOver = Callable[[int, int], bool]

TOKENS_PER_PASS = 4096
"""Positions of prompts that are read in one pass, to bound the memory of activations."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 takes the likeliest token, else divides the logits. top_p: choose among the likeliest tokens whose
    probabilities sum to it (Holtzman et al. 2020). seed: of draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top-p is {self.top_p}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Generated:
    """What follows one prompt. `stop_id` is the stop token that ended it, which is not in `ids`; None: its length."""

    ids: tuple[int, ...]
    stop_id: int | None


def generate_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int],
    vocab_size: int,
    keys: Sequence[int] | None = None,
    is_over: IsOver = lambda number, token: False,
) -> list[Generated]:
    """What the model writes after each prompt, in their order; arguments and errors as of `next_tokens`."""
    written: list[list[int]] = [[] for _ in prompts]
    for row, token in next_tokens(
        model,
        prompts,
        max_tokens=max_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
        vocab_size=vocab_size,
        keys=keys,
        is_over=is_over,
    ):
        written[row].append(token)
    return [_without_stop(ids, stop_ids) for ids in written]


def next_tokens(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int],
    vocab_size: int,
    keys: Sequence[int] | None = None,
    is_over: IsOver = lambda number, token: False,
) -> Iterator[tuple[int, int]]:
    """Yields (number of the prompt, token) as tokens are chosen; each prompt in turn, again and again until it ends.

    Args:
        model: its context bounds a prompt and what follows together.
        prompts: token ids, at least one each.
        max_tokens: the most that follow a prompt.
        sampling: how a token is chosen.
        stop_ids: tokens that end a row; the one that did is its last.
        vocab_size: ids from here on have logits and no token, and are never chosen.
        keys: name the draws of each prompt; None: its number.
        is_over: is told the number of a prompt and each token of it in order, but for stop tokens and the last that it
            may have; says whether it shall be the last.

    Raises:
        ModelError: a prompt that is empty or leaves no room in the context, or logits that are not finite.
    """
    if not prompts:
        return
    room = [_room(model, prompt, number) for number, prompt in enumerate(prompts)]
    limits = np.minimum(room, max_tokens)
    draw_keys = np.asarray(range(len(prompts)) if keys is None else keys, np.int64)
    tokens, padding = _left_padded(prompts)
    cache = KVCache(model.spec, model.backend, tokens.shape[1] + int(limits.max()), len(prompts))
    numbers = np.arange(len(prompts))
    logits = _read_prompts(model, tokens, padding, cache)
    for step in range(int(limits.max())):
        chosen = choose_tokens(logits[:, :vocab_size], sampling, draw_keys[numbers], step)
        yield from zip(numbers.tolist(), chosen.tolist(), strict=True)
        ends = [
            limits[number] == step + 1 or token in stop_ids or is_over(number, token)
            for number, token in zip(numbers.tolist(), chosen.tolist(), strict=True)
        ]
        ended = np.flatnonzero(ends).tolist()
        if len(ended) == len(numbers):
            return
        if ended:
            order = cache.drop(ended)
            numbers, chosen, padding = numbers[order], chosen[order], padding[order]
        logits = _last_logits(model, chosen[:, None], padding, cache)


def choose_tokens(
    logits: np.ndarray, sampling: Sampling, keys: Sequence[int] | np.ndarray, position: int
) -> np.ndarray:
    """One token id int32 [B] for each row of logits [B, V], which are finite.

    Args:
        sampling: how they are chosen; with a temperature of 0 no draw is made.
        keys: name the draws of each row, together with the seed and `position`.
        position: how many tokens the rows have generated before.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(axis=-1).astype(np.int32)
    draws = [uniform_draw(sampling.seed, int(key), position) for key in keys]
    return np.array([_draw(row, sampling, draw) for row, draw in zip(logits, draws, strict=True)], np.int32)


def uniform_draw(seed: int, key: int, position: int) -> float:
    """A number in 0 ≤ u < 1 that these three name."""
    state = 0
    for part in (seed, key, position):
        state = splitmix64((state ^ (part & (1 << 64) - 1)) + 0x9E3779B97F4A7C15)
    return (state >> 11) * 2.0**-53


def _draw(logits: np.ndarray, sampling: Sampling, draw: float) -> int:
    """One token id from logits [V]: the one in whose share of the sum of kept probabilities `draw` falls."""
    with np.errstate(over="ignore"):  # a tiny temperature: the others are infinitely far below the likeliest
        probabilities = np.exp((logits.astype(np.float64) - float(logits.max())) / sampling.temperature)
    probabilities /= probabilities.sum()
    kept = _likeliest(probabilities, sampling.top_p)
    cumulative = np.cumsum(probabilities[kept])
    return int(kept[np.searchsorted(cumulative, draw * cumulative[-1], side="right").clip(0, len(kept) - 1)])


def _likeliest(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """The ids of the fewest tokens whose probabilities [V] sum to top_p, the likeliest first; all of them for 1."""
    if top_p == 1.0:
        return np.arange(len(probabilities))
    # All tokens below (1 - top_p)/V have less than 1 - top_p together, so none of them is among the likeliest.
    candidates = np.flatnonzero(probabilities >= (1.0 - top_p) / len(probabilities))
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    return order[: int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1]


def _without_stop(ids: Sequence[int], stop_ids: Collection[int]) -> Generated:
    if ids and ids[-1] in stop_ids:
        return Generated(tuple(ids[:-1]), ids[-1])
    return Generated(tuple(ids), None)


def _room(model: LanguageModel, prompt: Sequence[int], number: int) -> int:
    """How many tokens fit into the context after a prompt."""
    if not len(prompt):
        raise ModelError(f"prompt {number} has no tokens to go on from")
    room = model.spec.context_length - len(prompt)
    if room < 1:
        raise ModelError(
            f"prompt {number} has {len(prompt)} tokens and the model a context of {model.spec.context_length}",
            hint="shorten the prompt",
        )
    return room


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int32Array, Int32Array]:
    """Tokens int32 [B, T] with each prompt at the end of its row, and how many zeros stand before it, int32 [B]."""
    width = max(map(len, prompts))
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[width - len(prompt) :] = prompt
    return tokens, np.array([width - len(prompt) for prompt in prompts], np.int32)


def _read_prompts(model: LanguageModel, tokens: Int32Array, padding: Int32Array, cache: KVCache) -> np.ndarray:
    """Logits [B, V] after all columns, which are read some at a time."""
    width = max(1, TOKENS_PER_PASS // len(tokens))
    last = max(0, tokens.shape[1] - 1) // width * width
    for start in range(0, last, width):
        with no_grad():
            model.hidden_states(*_columns(tokens[:, start : start + width], padding, cache), cache=cache)
    return _last_logits(model, tokens[:, last:], padding, cache)


def _last_logits(model: LanguageModel, tokens: Int32Array, padding: Int32Array, cache: KVCache) -> np.ndarray:
    """Logits [B, V] at the last of the columns tokens [B, T], which come after what the cache holds."""
    logits = model.last_logits(*_columns(tokens, padding, cache), cache)
    if not np.isfinite(logits).all():
        raise ModelError("the model computes numbers that are not finite", hint="its weights are damaged")
    return logits


def _columns(tokens: Int32Array, padding: Int32Array, cache: KVCache) -> tuple[Int32Array, Int32Array, Int32Array]:
    """Tokens, positions and lower, int32 [B, T], of columns that come after what the cache holds.

    Padding sees only itself, and nobody sees it.
    """
    column = np.arange(cache.length, cache.length + tokens.shape[1], dtype=np.int32)[None, :]
    first = padding[:, None]
    return tokens, np.maximum(column - first, 0), np.minimum(first, column)
