"""Encoders of Q2_K ... Q6_K: rows of float32 to packed super-blocks of 256 values.

The scales are found by searching less than llama.cpp does, but further: see the kernels. Every row is packed by itself,
so the bytes depend on nothing but the row and the importance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.stored_kernels import StoredKernel

LANE_ROWS = 16
"""What the kernels know of each part of a block: see `k_lanes_kernels`."""

_AFFINE = "entrenar_core.codecs.k_affine_pack_kernels"
_SYMMETRIC = "entrenar_core.codecs.k_symmetric_kernels"

_encode_q2_k = StoredKernel(_AFFINE, "encode_q2_k")
_encode_q3_k = StoredKernel(_SYMMETRIC, "encode_q3_k")
_encode_q4_k = StoredKernel(_AFFINE, "encode_q4_k")
_encode_q5_k = StoredKernel(_AFFINE, "encode_q5_k")
_encode_q6_k = StoredKernel(_SYMMETRIC, "encode_q6_k")

_SUPER_BLOCK = 256
_LINE = 64
_LANES = 16


def _around_zero(reach: float, count: int) -> Floats:
    return np.linspace(-reach, reach, count, dtype=np.float32)


FACTORS = {
    "Q2_K": _around_zero(0.6, 5),
    "Q3_K": _around_zero(0.8, 4),
    "Q4_K": _around_zero(0.9, 5),
    "Q5_K": _around_zero(0.9, 5),
    "Q6_K": _around_zero(0.9, 4),
}
"""By how much each scale that is tried moves the code of a part's largest number (or of its width)."""


def encode_q2_k(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 84], all C-contiguous.

    Args:
        rows: what to pack; C is a multiple of 256.
        importance: float32 [C], the weight of each column's squared error; None for the default weights.
        packed: where the bytes go.

    Returns:
        The number of the first block, counted through all rows, that the type cannot hold; None when all is well.
    """
    return encode_blocks(_encode_q2_k, rows, importance, packed, FACTORS["Q2_K"], part=16, steps_at=80, n_steps=2)


def encode_q3_k(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 110]; see `encode_q2_k`."""
    return encode_blocks(_encode_q3_k, rows, importance, packed, FACTORS["Q3_K"], part=16, steps_at=108, n_steps=1)


def encode_q4_k(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 144]; see `encode_q2_k`."""
    return encode_blocks(_encode_q4_k, rows, importance, packed, FACTORS["Q4_K"], part=32, steps_at=0, n_steps=2)


def encode_q5_k(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 176]; see `encode_q2_k`."""
    return encode_blocks(_encode_q5_k, rows, importance, packed, FACTORS["Q5_K"], part=32, steps_at=0, n_steps=2)


def encode_q6_k(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 210]; see `encode_q2_k`."""
    return encode_blocks(_encode_q6_k, rows, importance, packed, FACTORS["Q6_K"], part=16, steps_at=208, n_steps=1)


def aligned_floats(n_rows: int) -> Floats:
    """float32 [n_rows, 16] in which each row is one cache line: vectors that cross lines take twice as long."""
    room = np.empty(n_rows * _LANES * 4 + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + n_rows * _LANES * 4].view(np.float32).reshape(n_rows, _LANES)


def normalized(importance: Floats) -> Floats:
    """Importance with a mean of 1, so that its sums stay in the range of float32; zeros stay zeros."""
    mean = importance.mean(dtype=np.float64)
    return (importance / (mean if mean > 0.0 else 1.0)).astype(np.float32)


def encode_blocks(
    kernel: Callable[..., Any],
    rows: Floats,
    importance: Floats | None,
    packed: Bytes,
    factors: Floats,
    *,
    part: int,
    steps_at: int,
    n_steps: int,
    block: int = _SUPER_BLOCK,
) -> int | None:
    """Run a kernel over all blocks of C-contiguous rows and put its steps into the blocks as float16.

    Args:
        part: values that share a scale; the kernel's scratch memory has as many rows.
        steps_at, n_steps: the byte at which a block keeps its float16 steps, and how many.
        block: values in a block.

    Returns the number of the first block whose steps are not finite float16 numbers, if any.
    """
    blocks = rows.reshape(-1, block)
    targets = packed.reshape(len(blocks), -1)
    weighting = np.empty(0, np.float32) if importance is None else normalized(importance)
    steps = np.empty((len(blocks), n_steps), np.float32)
    scratch = aligned_floats(part), aligned_floats(part), aligned_floats(LANE_ROWS)
    with np.errstate(all="ignore"):  # values that are not finite, or too large, are found by their steps
        kernel(blocks, weighting.reshape(-1, block), factors, *scratch, steps, targets)
        halves = steps.astype("<f2")
    targets[:, steps_at : steps_at + 2 * n_steps] = halves.view(np.uint8)
    lost = ~np.isfinite(halves).all(axis=1)
    return int(lost.argmax()) if lost.any() else None
