"""Attention document by document, by a library: its launches on the arrays of a batch, and what it leaves out.

Where each row is one document, the library reads rows; elsewhere it reads packed documents wherever they lie, and
tokens that are a document by themselves get a kernel of their own. Where documents are goes to the device once a batch,
not once a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import CudaLaunch
from entrenar_core.backend.cuda_sdpa import (
    MOST_SCRATCH,
    AttentionSizes,
    PackedLaunch,
    Sdpa,
    SdpaShape,
    are_whole_rows,
    lone_tokens,
    packed_launches,
    positions_of_a_launch,
    refusal,
)
from entrenar_core.backend.documents import Documents, HostLower
from entrenar_core.backend.parameters import AttentionParams

_ALIGNMENT = 16
"""Bytes that a library expects the address of an array to be a multiple of."""


@dataclass(frozen=True)
class _Rows:
    """A launch over the rows of a batch from first_row on."""

    shape: SdpaShape
    first_row: int


@dataclass(frozen=True)
class _Packed:
    """A launch over documents that lie at the tokens `starts` int32 [n]; the other arrays are those of `Sdpa`."""

    shape: SdpaShape
    starts: Array
    lengths: Array
    q_offsets: Array
    kv_offsets: Array


@dataclass(frozen=True)
class _Launches:
    """All launches of an attention, and the tokens int32 [n] that are none of theirs, if there are any."""

    rows: list[_Rows] = field(default_factory=list)
    packed: list[_Packed] = field(default_factory=list)
    lone: Array | None = None

    def shapes(self) -> Iterator[SdpaShape]:
        yield from (launch.shape for launch in self.rows)
        yield from (launch.shape for launch in self.packed)


class DocumentAttention:
    """Attention by a library.

    Args:
        device: whose kernels and memory serve it.
        sdpa: the library.
        deterministic: whether gradients shall have the same bits each time.
    """

    def __init__(self, device: CudaLaunch, sdpa: Sdpa, deterministic: bool) -> None:
        self.sdpa = sdpa
        self._device = device
        self._deterministic = deterministic
        self._known: WeakKeyDictionary[HostLower, dict[tuple[AttentionSizes, float], _Launches]] = WeakKeyDictionary()

    def refusal(self, element: str, sizes: AttentionSizes, params: AttentionParams, backward: bool) -> str | None:
        """Why the library does not serve a call, None if it does; `element` is the name of the arrays' dtype."""
        reason = refusal(element, sizes, params, self.sdpa.capability, self._deterministic)
        if reason is not None:
            return reason
        reasons = (self._refused(shape, backward) for shape in self._launches(sizes, params).shapes())
        return next((reason for reason in reasons if reason is not None), None)

    def _refused(self, shape: SdpaShape, backward: bool) -> str | None:
        reason = self.sdpa.refusal(shape, backward)
        if reason is None and self.sdpa.workspace_bytes(shape, backward) > MOST_SCRATCH:
            return f"scratch of more than {MOST_SCRATCH >> 20} MiB"
        return reason

    def attend(
        self, q: Array, k: Array, v: Array, sizes: AttentionSizes, params: AttentionParams
    ) -> tuple[Array, Array]:
        """`Backend.attention` for a call that is not refused."""
        launches, device = self._launches(sizes, params), self._device
        q, k, v = (device.contiguous(each) for each in (q, k, v))
        out, lse = device.empty(q.shape, q.dtype), device.empty((sizes.batch, sizes.n_heads, sizes.n_queries))
        self._run(launches, False, {"q": q, "k": k, "v": v, "out": out}, lse, sizes)
        if launches.lone is not None:
            n_lone = len(launches.lone)
            how = (n_lone, sizes.n_heads, sizes.n_kv, sizes.width, sizes.n_queries, params.scale)
            arrays = (q, k, v, out, lse, launches.lone)
            self._over_warps("attend_alone", n_lone * sizes.n_heads, *arrays, *how, element=q.dtype)
        return out, lse

    def attend_backward(
        self,
        dout: Array,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        lse: Array,
        sizes: AttentionSizes,
        params: AttentionParams,
    ) -> tuple[Array, Array, Array]:
        """`Backend.attention_backward` for a call that is not refused."""
        launches, device = self._launches(sizes, params), self._device
        names = ("dout", "q", "k", "v", "out")
        arrays = dict(zip(names, map(device.contiguous, (dout, q, k, v, out)), strict=True))
        gradients = {f"d{name}": device.empty(arrays[name].shape, q.dtype) for name in ("q", "k", "v")}
        self._run(launches, True, arrays | gradients, device.contiguous(lse), sizes)
        if launches.lone is not None:
            n_lone = len(launches.lone)
            how = (n_lone, sizes.n_heads, sizes.n_kv, sizes.width)
            given = (arrays["dout"], *gradients.values(), launches.lone)
            self._over_warps("attend_alone_backward", n_lone * sizes.n_kv, *given, *how, element=q.dtype)
        return gradients["dq"], gradients["dk"], gradients["dv"]

    def _run(
        self, launches: _Launches, backward: bool, arrays: Mapping[str, Array], lse: Array, sizes: AttentionSizes
    ) -> None:
        runtime = self._device.runtime
        addresses = {name: runtime.address(array) for name, array in arrays.items()}
        for rows in launches.rows:
            by_row = {name: rows.first_row * (array.nbytes // sizes.batch) for name, array in arrays.items()}
            moved = {name: address + by_row[name] for name, address in addresses.items()}
            stats = runtime.address(lse) + rows.first_row * (lse.nbytes // sizes.batch)
            self._start(rows.shape, backward, moved | {"stats": stats})
        for packed in launches.packed:
            self._run_packed(packed, backward, addresses, lse, sizes)

    def _run_packed(
        self, packed: _Packed, backward: bool, addresses: Mapping[str, int], lse: Array, sizes: AttentionSizes
    ) -> None:
        device, shape = self._device, packed.shape
        stats = device.empty((shape.n, shape.n_heads, shape.length))
        places, how = (packed.starts, packed.lengths), (stats.size, shape.n_heads, shape.length, sizes.n_queries)
        if backward:
            device.over_elements(_FILE, "stats_of_lse", stats.size, lse, *places, stats, *how)
        given = {"stats": stats, "lengths": packed.lengths, "q_offsets": packed.q_offsets}
        given["kv_offsets"] = packed.kv_offsets
        own = {name: device.runtime.address(array) for name, array in given.items()}
        self._start(shape, backward, {**addresses, **own})
        if not backward:
            device.over_elements(_FILE, "lse_of_stats", stats.size, stats, *places, lse, *how)

    def _start(self, shape: SdpaShape, backward: bool, addresses: Mapping[str, int]) -> None:
        n_bytes = self.sdpa.workspace_bytes(shape, backward)
        workspace = self._device.empty((max(1, n_bytes),), np.uint8)
        self.sdpa.run(shape, backward, addresses, self._device.runtime.address(workspace))

    def _over_warps(self, kernel: str, n_warps: int, *arguments: Any, element: Any) -> None:
        self._device.launch(_FILE, kernel, (-(-n_warps // 8),), *arguments, element=element)

    def _launches(self, sizes: AttentionSizes, params: AttentionParams) -> _Launches:
        assert params.host_lower is not None and params.host_lower.documents is not None
        known = self._known.setdefault(params.host_lower, {})
        key = (sizes, params.scale)
        if key not in known:
            known[key] = self._plan(params.host_lower.documents, sizes, params.scale)
        return known[key]

    def _plan(self, documents: Documents, sizes: AttentionSizes, scale: float) -> _Launches:
        heads = (sizes.n_heads, sizes.n_kv, sizes.width)
        if are_whole_rows(documents, sizes):
            n = min(sizes.batch, max(1, positions_of_a_launch(sizes, self._deterministic) // sizes.n_queries))
            rows = []
            for first in range(0, sizes.batch, n):
                count = min(n, sizes.batch - first)
                shape = SdpaShape(count, sizes.n_queries, *heads, scale, False, self._deterministic)
                rows.append(_Rows(shape, first))
            return _Launches(rows)
        packed = list(packed_launches(documents, sizes, self._deterministic))
        lone = lone_tokens(documents)
        numbers = [np.asarray(each, np.int32) for one in packed for each in (one.starts, one.lengths)]
        *numbers, lone_there = self._to_device([*numbers, lone.astype(np.int32)])
        offsets = self._to_device([each for one in packed for each in _offsets(one, sizes)])
        pairs = zip(packed, _in_pairs(numbers), _in_pairs(offsets), strict=True)
        launches = [
            _Packed(
                SdpaShape(len(one.starts), one.length, *heads, scale, True, self._deterministic), *places, *offset_pair
            )
            for one, places, offset_pair in pairs
        ]
        return _Launches(packed=launches, lone=lone_there if len(lone) else None)

    def _to_device(self, arrays: Sequence[np.ndarray]) -> list[Array]:
        """Views of one array on the device, which begin at addresses that a library can read from."""
        if not arrays:
            return []
        step = _ALIGNMENT // arrays[0].itemsize
        places = np.cumsum([0, *(-(-len(each) // step) * step for each in arrays)])
        joined = np.zeros(max(1, places[-1]), arrays[0].dtype)
        for each, place in zip(arrays, places, strict=False):
            joined[place : place + len(each)] = each
        there = self._device.runtime.to_device(joined)
        return [there[place : place + len(each)] for each, place in zip(arrays, places.tolist(), strict=False)]


_FILE = "attention_documents"


def _offsets(launch: PackedLaunch, sizes: AttentionSizes) -> tuple[np.ndarray, np.ndarray]:
    """Where sequences begin, and where the last one ends, in elements of queries and of keys: int64 [n + 1] each."""
    tokens = np.append(launch.starts, launch.starts[-1] + launch.lengths[-1])
    return tokens * (sizes.n_heads * sizes.width), tokens * (sizes.n_kv * sizes.width)


def _in_pairs(arrays: Sequence[Array]) -> Iterator[tuple[Array, Array]]:
    return zip(arrays[::2], arrays[1::2], strict=True)
