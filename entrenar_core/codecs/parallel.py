"""Encoding, decoding and converting whole matrices: their rows shared out over threads.

Rows are worked on in pieces that stay in a core's second-level cache; a free thread takes the next piece. Each row is
packed by itself, so the bytes do not depend on the number of threads. A conversion never holds the whole matrix as
float32: each thread has room for one piece.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entrenar_core.codecs.base import (
    Bytes,
    Codec,
    Floats,
    decoded_shape,
    encoded_shape,
    output_array,
    output_bytes,
)
from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.threads import Threads

PIECE_VALUES = 1 << 17
"""Values that a conversion decodes at a time (half a mebibyte of float32), unless a single row has more."""
SHARE_VALUES = 1 << 20
"""Values that a thread takes at a time where nothing lies between its input and its output."""

_F32 = "F32"


def encode_rows(
    codec: Codec, values: Floats, threads: Threads, importance: Floats | None = None, out: Bytes | None = None
) -> Bytes:
    """What `codec.encode` does, on several threads.

    Args:
        values: float32 [..., row].
        importance: float32 [row]; see `Codec.encode`.
        out: C-contiguous uint8 [..., row_bytes]; a new array when it is None.

    Raises:
        FormatError: see `Codec.encode`; of several bad values it names the first.
    """
    packed = output_bytes(encoded_shape(codec, values), out)
    sources, targets = _matrix(values), _matrix(packed)

    def encode_piece(start: int, stop: int, thread: int) -> None:
        del thread
        codec.encode(sources[start:stop], importance, targets[start:stop])

    _run_pieces(encode_piece, len(sources), _rows_of(SHARE_VALUES, sources.shape[-1]), threads)
    return packed


def decode_rows(codec: Codec, raw: Bytes, threads: Threads, out: Floats | None = None) -> Floats:
    """What `codec.decode` does, on several threads: uint8 [..., row_bytes] to float32 [..., row]."""
    values = output_array(decoded_shape(codec, raw), out)
    sources, targets = _matrix(raw), _matrix(values)

    def decode_piece(start: int, stop: int, thread: int) -> None:
        del thread
        codec.decode(sources[start:stop], targets[start:stop])

    _run_pieces(decode_piece, len(targets), _rows_of(SHARE_VALUES, targets.shape[-1]), threads)
    return values


def convert_rows(
    source: Codec,
    raw: Bytes,
    target: Codec,
    threads: Threads,
    importance: Floats | None = None,
    out: Bytes | None = None,
) -> Bytes:
    """Packed rows of one type to packed rows of another; rows of the same type are copied.

    Args:
        raw: uint8 [..., row_bytes] of `source`; may be memory-mapped.
        importance: float32 [row]; see `Codec.encode`.
        out: C-contiguous uint8 [..., row_bytes] of `target`; a new array when it is None.

    Raises:
        FormatError: see `Codec.decode` and `Codec.encode`; of several bad values it names the first.
    """
    shape = decoded_shape(source, raw)
    packed = output_bytes(encoded_shape(target, np.broadcast_to(np.float32(0), shape)), out)
    width = shape[-1]
    sources, targets = _matrix(raw), _matrix(packed)
    room = [np.empty(max(PIECE_VALUES, width), np.float32) for _ in range(threads.count)]

    def convert_piece(start: int, stop: int, thread: int) -> None:
        piece, into = sources[start:stop], targets[start:stop]
        if source.type_name == target.type_name:
            into[...] = piece
        elif target.type_name == _F32:
            source.decode(piece, into.view("<f4"))
        else:
            values = source.decode(piece, room[thread][: (stop - start) * width].reshape(stop - start, width))
            target.encode(values, importance, into)

    _run_pieces(convert_piece, len(sources), _rows_of(PIECE_VALUES, width), threads)
    return packed


def _matrix(rows: np.ndarray) -> np.ndarray:
    """[..., row] as [R, row]; a view where that is possible."""
    return rows.reshape(-1, rows.shape[-1]) if rows.size else np.empty((0, rows.shape[-1]), rows.dtype)


def _rows_of(n_values: int, width: int) -> int:
    """How many rows have about so many values."""
    return max(1, n_values // max(width, 1))


def _run_pieces(work: Callable[[int, int, int], None], n_rows: int, height: int, threads: Threads) -> None:
    """Call ``work(start, stop, thread)`` on `height` rows at a time; the first bad piece's error comes at the end."""

    def run_piece(task: int, thread: int) -> None:
        start = task * height
        try:
            work(start, min(start + height, n_rows), thread)
        except UnfitValueError as error:
            raise error.moved_by(start) from error

    threads.run_tasks(run_piece, -(-n_rows // height))
