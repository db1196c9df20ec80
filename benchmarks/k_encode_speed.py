"""Packing weights in memory as K- and IQ4-types: our encoders and llama.cpp's quantizer, in turn, on the same threads.

All arrays are touched before the clock starts. llama.cpp's function is called through ctypes, which lets go of the
GIL, on the same shares of rows; it gets an eighth of them, since it takes minutes for all. Next to the speed stands the
ratio of the errors (root mean square), which must not be bought for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.interleave import medians_in_turn
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.parallel import encode_rows
from entrenar_core.codecs.registry import codec_for
from entrenar_core.threads import Threads

ROWS, ROW = 1 << 13, 1 << 12
SHARE = 8
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def run(rounds: int = 5, threads: int = 2) -> list[str]:
    """A row for each type: millions of values a second, ours and llama.cpp's, the ratio, and that of the errors."""
    workers = Threads(threads)
    values = 0.02 * np.random.default_rng(0).standard_normal((ROWS, ROW), np.float32)
    lines = [f"K- and IQ4-types, {values.nbytes >> 20} MiB of float32, {threads} threads, medians of {rounds} in turn"]
    lines += [_row_of(name, values, workers, rounds) for name in TYPES]
    workers.close()
    return lines


def _row_of(name: str, values: np.ndarray, workers: Threads, rounds: int) -> str:
    codec, quantize = codec_for(name), _quantizer(name)
    packed = np.zeros((ROWS, TYPE_BY_NAME[name].row_bytes(ROW)), np.uint8)
    some = values[: ROWS // SHARE]
    theirs = np.zeros((len(some), packed.shape[1]), np.uint8)
    ours_seconds, their_seconds = medians_in_turn(
        rounds,
        lambda: encode_rows(codec, values, workers, out=packed),
        lambda: workers.run(quantize, len(some), some, theirs),
    )
    ours, their = values.size / ours_seconds / 1e6, some.size / their_seconds / 1e6
    errors = [np.sqrt(np.mean((codec.decode(part) - some) ** 2)) for part in (packed[: len(some)], theirs)]
    speeds = f"{ours:6.0f} M/s   llama.cpp {their:6.1f} M/s   {ours / their:6.2f}x"
    return f"  {name:7} {speeds}   error {errors[0] / errors[1]:.4f}x"


def _quantizer(name: str) -> Callable[[np.ndarray, np.ndarray, int, int], None]:
    """llama.cpp's quantizer of one type, over a range of rows."""
    import llama_cpp

    quantize = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so")).ggml_quantize_chunk
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    quantize.restype = ctypes.c_size_t
    kind = TYPE_BY_NAME[name].id

    def encode(values: np.ndarray, packed: np.ndarray, start: int, stop: int) -> None:
        source, target = values[start:stop], packed[start:stop]
        quantize(kind, source.ctypes.data, target.ctypes.data, 0, stop - start, ROW, None)

    return encode
