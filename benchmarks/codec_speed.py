"""Packing a gibibyte of float32 in memory and unpacking it: our codecs and llama.cpp's, in turn, on the same threads.

All arrays are touched before the clock starts. llama.cpp's functions are called through ctypes, which lets go of the
GIL, on the same shares of rows. gguf-py packs an eighth, once: it is slow and keeps several copies.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import numpy as np

from benchmarks.interleave import medians_in_turn
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.parallel import convert_rows, decode_rows, encode_rows
from entrenar_core.codecs.registry import codec_for
from entrenar_core.threads import Threads

ROWS, ROW = 1 << 16, 1 << 12
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16")
DECODERS = {
    **{name: f"dequantize_row_{name.lower()}" for name in TYPES if name.startswith("Q")},
    "F16": "ggml_fp16_to_fp32_row",
    "BF16": "ggml_bf16_to_fp32_row",
}
GGUF_PY = ("Q4_0", "Q8_0")


def run(rounds: int = 5, threads: int = 2) -> list[str]:
    """A row for each type and direction: ours, llama.cpp's, the ratio."""
    workers = Threads(threads)
    values = _weights()
    halves = encode_rows(codec_for("F16"), values, workers)
    back = np.zeros_like(values)
    lines = [f"codecs, 1 GiB of float32 in memory, {threads} threads, medians of {rounds} in turn"]
    for name in TYPES:
        lines += _rows_of(name, values, halves, back, workers, rounds)
    workers.close()
    return lines + [_gguf_py(name, values) for name in GGUF_PY]


def _weights() -> np.ndarray:
    """float32 [ROWS, ROW] of the size of weights; the same 16 MiB again and again."""
    piece = 0.02 * np.random.default_rng(0).standard_normal((1 << 10, ROW), np.float32)
    return np.tile(piece, (ROWS // len(piece), 1))


def _rows_of(
    name: str, values: np.ndarray, halves: np.ndarray, back: np.ndarray, workers: Threads, rounds: int
) -> list[str]:
    codec, half, ggml = codec_for(name), codec_for("F16"), _Ggml(name)
    packed = np.zeros((ROWS, TYPE_BY_NAME[name].row_bytes(ROW)), np.uint8)
    theirs = np.zeros_like(packed)
    encoding = medians_in_turn(
        rounds,
        lambda: encode_rows(codec, values, workers, out=packed),
        lambda: workers.run(ggml.encode, ROWS, values, theirs),
    )
    if not np.array_equal(packed, theirs):
        raise RuntimeError(f"{name}: not the bytes of llama.cpp")
    decoding = medians_in_turn(
        rounds,
        lambda: decode_rows(codec, packed, workers, out=back),
        lambda: workers.run(ggml.decode, ROWS, packed, back),
    )
    lines = [_line(f"{name} encode", *encoding), _line(f"{name} decode", *decoding)]
    if name != "F16":
        ours, copy = medians_in_turn(
            rounds,
            lambda: convert_rows(half, halves, codec, workers, out=packed),
            lambda: workers.run(_copy, ROWS, halves, back),
        )
        lines.append(f"  {f'F16 -> {name}':14} {ours:7.3f} s   reading the F16 alone {copy:7.3f} s")
    return lines


def _copy(halves: np.ndarray, target: np.ndarray, start: int, stop: int) -> None:
    """Read the rows once: the least that a conversion costs."""
    target[start, 0] = halves[start:stop].view(np.uint64).max()


class _Ggml:
    """llama.cpp's own quantizer of one type, over a range of rows."""

    def __init__(self, name: str) -> None:
        import llama_cpp

        library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
        self.kind = TYPE_BY_NAME[name].id
        self.quantize = library.ggml_quantize_chunk
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self.quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
        self.quantize.restype = ctypes.c_size_t
        self.dequantize = getattr(library, DECODERS[name])
        self.dequantize.argtypes = [pointer, pointer, number]
        self.dequantize.restype = None

    def encode(self, values: np.ndarray, packed: np.ndarray, start: int, stop: int) -> None:
        source, target = values[start:stop], packed[start:stop]
        self.quantize(self.kind, source.ctypes.data, target.ctypes.data, 0, stop - start, ROW, None)

    def decode(self, packed: np.ndarray, values: np.ndarray, start: int, stop: int) -> None:
        self.dequantize(packed[start:stop].ctypes.data, values[start:stop].ctypes.data, (stop - start) * ROW)


def _line(what: str, ours: float, theirs: float) -> str:
    return f"  {what:14} {ours:7.3f} s   llama.cpp {theirs:7.3f} s   {theirs / ours:5.2f}x"


def _gguf_py(name: str, values: np.ndarray) -> str:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    share = 8
    started = time.perf_counter()
    quantize(values[: ROWS // share], GGMLQuantizationType[name])
    seconds = share * (time.perf_counter() - started)
    return f"  {f'{name} encode':14} gguf-py {seconds:7.3f} s ({share} times an eighth, one run)"
