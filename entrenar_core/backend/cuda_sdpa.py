"""Attention of whole sequences as a library offers it: which calls one serves, and in which launches.

A launch attends to n sequences of at most `length` tokens: rows of a batch that lie one behind another, or documents
packed anywhere in it. A library compiles for the shape of a launch, so there are few shapes: documents are sorted into
lengths of powers of two, and a launch takes as many as make a fixed number of positions. Padding costs little, as a
library ends early where a sequence does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from entrenar_core.backend.documents import Documents
from entrenar_core.backend.parameters import AttentionParams

Int64Array = npt.NDArray[np.int64]

QUERY_ELEMENTS = 1 << 25
"""Of the queries of a launch: enough blocks to keep the largest GPU busy, and scratch of 268 MB in backward."""

MOST_SCRATCH = 3 << 29
"""Bytes of scratch that a launch may take: cuDNN's deterministic gradients take some that grows with length squared."""

_SMALLER_IF_DETERMINISTIC = 4
_MOST_POSITIONS = 1 << 14
_SHORTEST = 64
"""A library's tiles are longer than that, and each shape takes it a second to compile."""


@dataclass(frozen=True)
class AttentionSizes:
    """The sizes of an attention: queries [batch, n_queries, n_kv·group, width], keys [batch, n_keys, n_kv, width]."""

    batch: int
    n_queries: int
    n_keys: int
    n_kv: int
    group: int
    width: int

    @property
    def n_heads(self) -> int:
        return self.n_kv * self.group

    @property
    def sequences(self) -> int:
        """How many (sequence, kv head) there are."""
        return self.batch * self.n_kv


@dataclass(frozen=True)
class SdpaShape:
    """What a library compiles for: n sequences of up to `length` tokens, causal.

    packed: sequences lie at offsets and have lengths, both read on the device; otherwise each is `length` tokens long
    and begins where the one before it ends.
    """

    n: int
    length: int
    n_heads: int
    n_kv: int
    width: int
    scale: float
    packed: bool
    deterministic: bool = False


class Sdpa(Protocol):
    """A library of attentions in bfloat16, on one device and its stream.

    Arrays are named: q, k, v, out, dout, dq, dk, dv, of tokens [heads, width]; stats float32 [n, n_heads, length], the
    log-sum-exp. Packed, there are also lengths int32 [n], which may be 0, and q_offsets and kv_offsets int64 [n + 1]:
    where each sequence begins, counted in elements, and at last where the last one ends. Nothing is written beyond the
    length of a sequence, except to stats, where backward expects finite numbers.
    """

    name: str
    capability: int
    """Of the device, 90 for 9.0."""

    def refusal(self, shape: SdpaShape, backward: bool) -> str | None:
        """Why the library cannot do it, None if it can. The first question about a shape may take a second."""
        ...

    def workspace_bytes(self, shape: SdpaShape, backward: bool) -> int: ...

    def run(self, shape: SdpaShape, backward: bool, addresses: Mapping[str, int], workspace: int) -> None:
        """Queue it; addresses are those of the arrays by name, and that of the workspace."""
        ...


def refusal(
    element: str, sizes: AttentionSizes, params: AttentionParams, capability: int, deterministic: bool
) -> str | None:
    """Why cuDNN is not asked for an attention on a device of a compute capability, None if it is.

    This is its table of support (cuDNN front end 1.28, operations/Attention): heads of up to 128 numbers go everywhere
    and of 256 on the GPUs of data centres from Hopper on, and on those alone are the gradients of packed sequences the
    same each time.
    """
    is_large_gpu = capability // 10 in (9, 10)
    documents = None if params.host_lower is None else params.host_lower.documents
    reasons = {
        element: element != "bfloat16",
        "a soft cap": params.softcap != 0,
        "tokens that came before": params.q_offset != 0 or sizes.n_queries != sizes.n_keys,
        "a window, or unknown documents": documents is None,
        f"heads of {sizes.width}": not _has_width(sizes.width, is_large_gpu),
        "packed documents in a deterministic run": deterministic and not (is_large_gpu or _are_rows(documents, sizes)),
        f"compute capability {capability / 10}": capability < 80,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _has_width(width: int, is_large_gpu: bool) -> bool:
    return width % 8 == 0 and (width <= 128 or (width == 256 and is_large_gpu))


def _are_rows(documents: Documents | None, sizes: AttentionSizes) -> bool:
    return documents is not None and are_whole_rows(documents, sizes)


def are_whole_rows(documents: Documents, sizes: AttentionSizes) -> bool:
    """Whether each row is one document."""
    return len(documents.starts) == sizes.batch and sizes.n_queries > 1


@dataclass(frozen=True)
class PackedLaunch:
    """Up to n documents of at most `length` tokens: starts and lengths int64 [n], of which the last may be empty."""

    length: int
    starts: Int64Array
    lengths: Int64Array


def positions_of_a_launch(sizes: AttentionSizes, deterministic: bool = False) -> int:
    """How many tokens a launch takes, those that are not there included: a power of two."""
    wanted = QUERY_ELEMENTS // (sizes.n_heads * sizes.width)
    if deterministic:
        wanted //= _SMALLER_IF_DETERMINISTIC
    return max(_SHORTEST, 1 << (min(wanted, _MOST_POSITIONS).bit_length() - 1))


def packed_launches(documents: Documents, sizes: AttentionSizes, deterministic: bool = False) -> Iterator[PackedLaunch]:
    """The launches of all documents of two tokens or more, the short ones first."""
    positions = positions_of_a_launch(sizes, deterministic)
    rooms = np.maximum(_SHORTEST, 1 << np.ceil(np.log2(documents.lengths)).astype(np.int64))
    several = documents.lengths > 1
    for room in np.unique(rooms[several]).tolist():
        chosen = np.flatnonzero(several & (rooms == room))
        n = max(1, positions // room)
        for first in range(0, len(chosen), n):
            yield _launch(documents, chosen[first : first + n], room, n)


def _launch(documents: Documents, chosen: Int64Array, room: int, n: int) -> PackedLaunch:
    starts, lengths = documents.starts[chosen], documents.lengths[chosen]
    missing = n - len(chosen)
    end = np.full(missing, starts[-1] + lengths[-1])
    return PackedLaunch(room, np.concatenate([starts, end]), np.concatenate([lengths, np.zeros(missing, np.int64)]))


def lone_tokens(documents: Documents) -> Int64Array:
    """The tokens that are a document by themselves: padding, most of all."""
    return documents.starts[documents.lengths == 1]
