"""Attention against torch: scaled_dot_product_attention with explicit masks, and soft-capped scores by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")

from entrenar_core.autograd.ops import attention  # noqa: E402
from entrenar_core.backend.base import AttentionParams  # noqa: E402
from tests.oracle.op_comparison import BACKENDS, Case, compare, normal  # noqa: E402

Visible = Callable[[int, int], np.ndarray]
"""B, T -> lower [B, T]: the first key that each query sees."""


def causal(batch: int, time: int) -> np.ndarray:
    return np.zeros((batch, time), np.int32)


def packed(batch: int, time: int) -> np.ndarray:
    """Documents of uneven lengths, other ones in each row, and a padding position of its own at the end."""
    lower = np.zeros((batch, time), np.int32)
    for row in range(batch):
        for start in range(0, time, 5 + 3 * row):
            lower[row, start:] = start
        lower[row, -1] = time - 1
    return lower


def window(batch: int, time: int) -> np.ndarray:
    return np.broadcast_to(np.maximum(np.arange(time) - 6, 0), (batch, time)).astype(np.int32)


def windowed_documents(batch: int, time: int) -> np.ndarray:
    return np.maximum(packed(batch, time), window(batch, time))


def own_key_only(batch: int, time: int) -> np.ndarray:
    return np.broadcast_to(np.arange(time), (batch, time)).astype(np.int32)


def mask_of(lower: np.ndarray, n_keys: int, q_offset: int) -> Any:
    """True where query [B, 1, Tq, ...] may look at key [..., Tk]."""
    keys, last = np.arange(n_keys), np.arange(lower.shape[1]) + q_offset
    return torch.tensor((keys >= lower[..., None]) & (keys <= last[:, None]))[:, None]


def by_torch(q: Any, k: Any, v: Any, mask: Any, scale: float) -> Any:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(
        *heads_first, attn_mask=mask, scale=scale, enable_gqa=True
    ).transpose(1, 2)


def by_hand(q: Any, k: Any, v: Any, mask: Any, scale: float, softcap: float) -> Any:
    """Gemma 2's form: the scaled scores go through softcap·tanh(·/softcap) before the mask."""
    group = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), *(x.transpose(1, 2).repeat_interleave(group, dim=1) for x in (k, v))
    scores = softcap * torch.tanh(scale * q @ k.transpose(-1, -2) / softcap)
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def case(
    visible: Visible,
    batch: int,
    time: int,
    heads: int,
    kv_heads: int,
    width: int,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    q_offset: int = 0,
) -> Case:
    scale = width**-0.5 if scale is None else scale
    n_keys = time + q_offset
    lower, params = visible(batch, time), AttentionParams(scale, softcap, q_offset)
    mask = mask_of(lower, n_keys, q_offset)

    def theirs(q: Any, k: Any, v: Any) -> Any:
        return by_hand(q, k, v, mask, scale, softcap) if softcap else by_torch(q, k, v, mask, scale)

    return Case(
        lambda backend, q, k, v: attention.attention(q, k, v, backend.asarray(lower), params),
        theirs,
        [normal(batch, time, heads, width), *(normal(batch, n_keys, kv_heads, width, seed=s) for s in (2, 3))],
    )


CASES: dict[str, Case] = {
    "causal": case(causal, 2, 64, 4, 4, 32),
    "grouped queries": case(causal, 2, 65, 9, 3, 64),
    "one kv head": case(causal, 1, 33, 4, 1, 16),
    "longer than a tile": case(causal, 1, 200, 2, 1, 48),
    "packed documents": case(packed, 3, 67, 6, 2, 24),
    "long packed documents": case(packed, 2, 161, 2, 2, 16),
    "window": case(window, 2, 65, 4, 2, 32),
    "documents in a window": case(windowed_documents, 2, 40, 4, 2, 32),
    "own key only": case(own_key_only, 2, 9, 2, 1, 8),
    "one position": case(causal, 3, 1, 2, 1, 8),
    "odd width": case(packed, 2, 19, 3, 3, 7),
    "width of one": case(causal, 1, 5, 2, 2, 1),
    "another scale": case(causal, 2, 33, 4, 2, 16, scale=1.3),
    "soft cap": case(causal, 2, 65, 4, 2, 32, softcap=5.0, scale=1.0),
    "soft cap, documents, window": case(windowed_documents, 2, 40, 4, 2, 16, softcap=1.5, scale=0.7),
    "cached keys": case(causal, 2, 5, 4, 2, 16, q_offset=30),
    "one query, cached keys": case(causal, 1, 1, 4, 2, 16, q_offset=70),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = BACKENDS[request.param]()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_torchs(name: str, backend: Any) -> None:
    compare(CASES[name], backend)


def test_the_masks_are_what_they_say() -> None:
    assert mask_of(packed(1, 6), 6, 0)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert mask_of(causal(1, 2), 4, 2)[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
