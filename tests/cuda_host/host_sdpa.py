"""`Sdpa` on the host: attention of whole sequences by NumPy, on addresses, as the protocol describes it.

It does what a library is documented to do and no more: what lies beyond the end of a sequence is neither read nor
written, and the log-sum-exp there stays what it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from entrenar_core.backend.cuda_sdpa import SdpaShape

NDArray = np.ndarray[Any, np.dtype[Any]]
_OF_KEYS = frozenset(["k", "v", "dk", "dv"])


class HostSdpa:
    """A library on the host.

    Args:
        capability: the compute capability of the device that it says it is on.
        refused: lengths of sequences that it refuses.
    """

    name = "host"

    def __init__(self, capability: int = 90, refused: frozenset[int] = frozenset()) -> None:
        self.capability = capability
        self.refused = refused
        self.ran: list[tuple[SdpaShape, bool]] = []

    def refusal(self, shape: SdpaShape, backward: bool) -> str | None:
        return f"sequences of {shape.length}" if shape.length in self.refused else None

    def workspace_bytes(self, shape: SdpaShape, backward: bool) -> int:
        return 64 * (1 + backward)

    def run(self, shape: SdpaShape, backward: bool, addresses: Mapping[str, int], workspace: int) -> None:
        self.ran.append((shape, backward))
        assert all(address % 16 == 0 for address in (*addresses.values(), workspace))
        for sequence, length, starts in _sequences(shape, addresses):
            values = {
                name: _tokens(addresses[name], starts[name in _OF_KEYS], length, shape, name in _OF_KEYS)
                for name in addresses.keys() & {"q", "k", "v", "out", "dout", "dq", "dk", "dv"}
            }
            stats = _floats(addresses["stats"], sequence, shape)
            assert not backward or np.isfinite(stats).all()
            (_backward if backward else _forward)(values, stats[:, :length], shape)


def _sequences(shape: SdpaShape, addresses: Mapping[str, int]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Each sequence: its number, its length, and where it begins in elements of queries and of keys."""
    if not shape.packed:
        for sequence in range(shape.n):
            token = sequence * shape.length
            yield sequence, shape.length, (token * shape.n_heads * shape.width, token * shape.n_kv * shape.width)
        return
    lengths = _read(addresses["lengths"], np.int32, shape.n)
    q_offsets, kv_offsets = (_read(addresses[name], np.int64, shape.n + 1) for name in ("q_offsets", "kv_offsets"))
    assert (np.diff(q_offsets) >= 0).all() and (np.diff(kv_offsets) >= 0).all()
    assert (lengths <= shape.length).all()
    assert q_offsets[-1] == q_offsets[-2] + lengths[-1] * shape.n_heads * shape.width
    for sequence, length in enumerate(lengths.tolist()):
        yield sequence, length, (int(q_offsets[sequence]), int(kv_offsets[sequence]))


def _read(address: int, dtype: Any, count: int) -> NDArray:
    n_bytes = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * n_bytes).from_address(address), dtype)


def _tokens(address: int, start: int, length: int, shape: SdpaShape, of_keys: bool) -> NDArray:
    """bfloat16 [length, heads, width]."""
    heads = shape.n_kv if of_keys else shape.n_heads
    return _read(address + 2 * start, ml_dtypes.bfloat16, length * heads * shape.width).reshape(
        length, heads, shape.width
    )


def _floats(address: int, sequence: int, shape: SdpaShape) -> NDArray:
    """float32 [n_heads, length] of a sequence."""
    size = shape.n_heads * shape.length
    return _read(address + 4 * sequence * size, np.float32, size).reshape(shape.n_heads, shape.length)


def _of_heads(x: NDArray, shape: SdpaShape) -> NDArray:
    """Tokens [length, heads, width] in float32 as [n_heads, length, width], those of a group shared."""
    heads = x.astype(np.float32).transpose(1, 0, 2)
    return np.repeat(heads, shape.n_heads // len(heads), axis=0)


def _scores(values: Mapping[str, NDArray], shape: SdpaShape) -> NDArray:
    scores = shape.scale * _of_heads(values["q"], shape) @ _of_heads(values["k"], shape).transpose(0, 2, 1)
    return np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, np.float32(-np.inf))


def _forward(values: Mapping[str, NDArray], stats: NDArray, shape: SdpaShape) -> None:
    scores = _scores(values, shape)
    top = scores.max(axis=-1, initial=-np.inf, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    stats[...] = (top + np.log(total))[..., 0]
    values["out"][...] = (weights / total @ _of_heads(values["v"], shape)).transpose(1, 0, 2)


def _backward(values: Mapping[str, NDArray], stats: NDArray, shape: SdpaShape) -> None:
    q, k, v, out, dout = (_of_heads(values[name], shape) for name in ("q", "k", "v", "out", "dout"))
    weights = np.exp(_scores(values, shape) - stats[..., None])
    dweights = dout @ v.transpose(0, 2, 1)
    dscores = shape.scale * weights * (dweights - (dout * out).sum(axis=-1, keepdims=True))
    values["dq"][...] = (dscores @ k).transpose(1, 0, 2)
    for name, of_heads in (("dk", dscores.transpose(0, 2, 1) @ q), ("dv", weights.transpose(0, 2, 1) @ dout)):
        groups = of_heads.reshape(shape.n_kv, shape.n_heads // shape.n_kv, *of_heads.shape[1:])
        values[name][...] = groups.sum(axis=1).transpose(1, 0, 2)
