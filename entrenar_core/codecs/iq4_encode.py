"""Encoders of IQ4_NL and IQ4_XS: rows of float32 to codes of 16 uneven levels; see `iq4_encode_kernels`."""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.k_encode import encode_blocks
from entrenar_core.stored_kernels import StoredKernel

_KERNELS = "entrenar_core.codecs.iq4_encode_kernels"

_encode_iq4_nl = StoredKernel(_KERNELS, "encode_iq4_nl")
_encode_iq4_xs = StoredKernel(_KERNELS, "encode_iq4_xs")

TARGETS = np.array([-134.0, -127.0, -120.0, -113.0, 106.0, 113.0, 120.0], np.float32)
"""What the value of largest magnitude is made, before its scale: levels at the ends of the range and near them."""


def encode_iq4_nl(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 32 · 18]; C is a multiple of 32; see `k_encode.encode_q2_k`."""
    return encode_blocks(_encode_iq4_nl, rows, importance, packed, TARGETS, part=32, steps_at=0, n_steps=1, block=32)


def encode_iq4_xs(rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
    """Rows float32 [R, C] -> packed uint8 [R, C / 256 · 136]; see `k_encode.encode_q2_k`."""
    return encode_blocks(_encode_iq4_xs, rows, importance, packed, TARGETS, part=32, steps_at=0, n_steps=1)
