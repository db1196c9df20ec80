"""What a codec is: packed rows of one GGML type to float32 rows and back.

Arrays keep their leading axes; only the last axis changes between values and bytes. The checks that every codec makes
on its arguments live here, so that a wrong array is an error with numbers in it and not a wrong weight.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import FormatError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CHUNK_VALUES = 1 << 15
"""Values converted at a time: input, output and temporaries stay in the second-level cache."""


class Codec(Protocol):
    """Packs `block_size` values into `block_bytes` bytes. Stateless; one instance serves all threads."""

    @property
    def type_name(self) -> str:
        """The GGML name: ``F16``, ``Q4_K``."""
        ...

    @property
    def block_size(self) -> int: ...

    @property
    def block_bytes(self) -> int: ...

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        """Packed rows uint8[..., row_bytes] to float32[..., row], into `out` when given.

        Raises FormatError when row_bytes is not a whole number of blocks.
        """
        ...

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        """Rows float32[..., row] to packed rows uint8[..., row_bytes].

        Args:
            values: what to pack.
            importance: float32 [row], how much the squared error of each column counts (an importance matrix's row);
                types that have no choice to make (floats, Q8_0) do not look at it.
            out: where the bytes go, C-contiguous; a new array when it is None.

        Raises FormatError when a row is not a whole number of blocks, when a value does not fit the type (for block
        types: any that is not finite), or when the type can only be decoded.
        """
        ...


def decoded_shape(codec: Codec, raw: Bytes) -> tuple[int, ...]:
    """Shape of the values in `raw`, checked to be bytes and whole blocks."""
    if raw.dtype != np.uint8:
        raise TypeError(f"{codec.type_name} decodes uint8 bytes, not {raw.dtype}")
    n_blocks, rest = divmod(raw.shape[-1], codec.block_bytes)
    if rest:
        raise FormatError(
            f"a row of {raw.shape[-1]} bytes is not a whole number of {codec.type_name} blocks "
            f"({codec.block_bytes} bytes each)",
            hint="the tensor's type or shape does not belong to its data",
        )
    return (*raw.shape[:-1], n_blocks * codec.block_size)


def encoded_shape(codec: Codec, values: Floats) -> tuple[int, ...]:
    """Shape of the bytes of `values`, checked to be float32 and whole blocks."""
    if values.dtype != np.float32:
        raise TypeError(f"{codec.type_name} encodes float32 values, not {values.dtype}")
    n_blocks, rest = divmod(values.shape[-1], codec.block_size)
    if rest:
        raise FormatError(
            f"a row of {values.shape[-1]} values does not divide into {codec.type_name} blocks "
            f"of {codec.block_size} values",
            hint="choose a type with a smaller block (Q8_0, F16) for this tensor",
        )
    return (*values.shape[:-1], n_blocks * codec.block_bytes)


def output_array(shape: tuple[int, ...], out: Floats | None) -> Floats:
    """`out` when it fits (float32, C-contiguous, of this shape), a new array when it is None."""
    return _fitting(shape, np.float32, out)


def output_bytes(shape: tuple[int, ...], out: Bytes | None) -> Bytes:
    """`out` when it fits (uint8, C-contiguous, of this shape), a new array when it is None."""
    return _fitting(shape, np.uint8, out)


def checked_importance(codec: Codec, importance: Floats | None, n_columns: int) -> Floats | None:
    """The importance of the columns, checked to be one finite float32 for each, none of them negative."""
    if importance is None:
        return None
    if importance.dtype != np.float32 or importance.shape != (n_columns,):
        raise TypeError(f"importance must be float32 [{n_columns}], not {importance.dtype} {list(importance.shape)}")
    if not (np.isfinite(importance).all() and importance.min(initial=0.0) >= 0.0):
        raise FormatError(f"the importance of a column of {codec.type_name} is negative or not finite")
    return np.ascontiguousarray(importance)


def _fitting(shape: tuple[int, ...], dtype: type[Any], out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    if out is None:
        return np.empty(shape, dtype)
    if out.dtype != dtype or out.shape != shape or not out.flags.c_contiguous:
        name = np.dtype(dtype).name
        raise TypeError(f"out must be a C-contiguous {name} array of shape {shape}, not {out.dtype} {out.shape}")
    return out
