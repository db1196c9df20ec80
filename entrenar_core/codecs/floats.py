"""The codecs of plain floating point: F32, F16 and BF16.

Encoding rounds to nearest, ties to even. A NaN stays a (quiet) NaN; infinities stay. A finite value that would become
infinite is a FormatError, because the weight it stands for would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entrenar_core.codecs import float_arrays
from entrenar_core.codecs.base import (
    Bytes,
    Codec,
    Floats,
    decoded_shape,
    encoded_shape,
    output_array,
    output_bytes,
)
from entrenar_core.codecs.float_arrays import Halves
from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.stored_kernels import StoredKernel

_KERNELS = "entrenar_core.codecs.float_kernels"

_decode_f16 = StoredKernel(_KERNELS, "decode_f16", plain=float_arrays.decode_f16)
_encode_f16 = StoredKernel(_KERNELS, "encode_f16", "boolean", float_arrays.encode_f16)
_decode_bf16 = StoredKernel(_KERNELS, "decode_bf16", plain=float_arrays.decode_bf16)
_encode_bf16 = StoredKernel(_KERNELS, "encode_bf16", "boolean", float_arrays.encode_bf16)


class F32Codec:
    """IEEE single precision. Encoding contiguous values gives a view of them, no copy."""

    type_name = "F32"
    block_size = 1
    block_bytes = 4

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        values[...] = _last_axis_contiguous(raw).view("<f4")
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        shape = encoded_shape(self, values)
        packed = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
        if out is None:
            return packed
        output_bytes(shape, out)[...] = packed
        return out


class F16Codec:
    """IEEE half precision."""

    type_name = "F16"
    block_size = 1
    block_bytes = 2

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        return _decode(self, _decode_f16, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        return _encode(self, _encode_f16, values, out, smallest_lost=65520.0)


class BF16Codec:
    """The upper half of IEEE single precision (ggml's `ggml_compute_fp32_to_bf16`)."""

    type_name = "BF16"
    block_size = 1
    block_bytes = 2

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        return _decode(self, _decode_bf16, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        return _encode(self, _encode_bf16, values, out, smallest_lost=(2.0 - 2.0**-8) * 2.0**127)


def _decode(codec: Codec, widen: Callable[[Halves, Floats], None], raw: Bytes, out: Floats | None) -> Floats:
    values = output_array(decoded_shape(codec, raw), out)
    widen(np.ascontiguousarray(raw).reshape(-1).view("<u2"), values.reshape(-1))
    return values


def _encode(
    codec: Codec, narrow: Callable[[Floats, Halves], bool], values: Floats, out: Bytes | None, *, smallest_lost: float
) -> Bytes:
    packed = output_bytes(encoded_shape(codec, values), out)
    rows = np.ascontiguousarray(values)
    if narrow(rows.reshape(-1), packed.reshape(-1).view("<u2")):
        magnitudes = np.abs(rows.reshape(-1))
        lost = int(((magnitudes >= np.float32(smallest_lost)) & np.isfinite(magnitudes)).argmax())
        row, column = divmod(lost, values.shape[-1])
        reason = f"{float(rows.reshape(-1)[lost]):g} is too large for {codec.type_name} and would become infinite"
        raise UnfitValueError(reason, row, column)
    return packed


def _last_axis_contiguous(raw: Bytes) -> Bytes:
    """`raw` itself, or a copy when its rows are strided, so that bytes can be seen as wider words."""
    return raw if raw.strides[-1] == 1 else np.ascontiguousarray(raw)
