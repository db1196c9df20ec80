"""The bytes of the legacy block types are those of ggml's reference quantizer.

It is called in the library that llama-cpp-python brings.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.parallel import encode_rows
from entrenar_core.codecs.registry import codec_for
from entrenar_core.threads import Threads
from tests.codecs.blocks import adversarial_blocks, largest_of, random_rows, ten_million_values

llama_cpp = pytest.importorskip("llama_cpp")

FLOAT_TYPES = ("F16", "BF16")
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(folder / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def quantize(ggml: ctypes.CDLL, type_name: str, rows: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """ggml's bytes of float32 rows, uint8 [rows, row_bytes]."""
    kind, rows = TYPE_BY_NAME[type_name], np.ascontiguousarray(rows)
    packed = np.zeros((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    size = ggml.ggml_quantize_chunk(kind.id, rows.ctypes.data, packed.ctypes.data, 0, *rows.shape, weights)
    assert size == packed.nbytes
    return packed


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("seed", range(5))
def test_random_rows(ggml: ctypes.CDLL, type_name: str, seed: int) -> None:
    rows = random_rows(2000, 512, seed)
    assert np.array_equal(codec_for(type_name).encode(rows), quantize(ggml, type_name, rows))


@pytest.mark.parametrize("type_name", TYPES)
def test_adversarial_blocks(ggml: ctypes.CDLL, type_name: str) -> None:
    blocks = adversarial_blocks(largest_of(type_name))
    ours, theirs = codec_for(type_name).encode(blocks), quantize(ggml, type_name, blocks)
    different = [index for index in range(len(blocks)) if not np.array_equal(ours[index], theirs[index])]
    assert different == []


@pytest.mark.parametrize("type_name", TYPES)
def test_random_bit_patterns(ggml: ctypes.CDLL, type_name: str) -> None:
    """Any magnitude beside any other, with subnormals; only those that a float16 scale can hold."""
    bits = np.random.default_rng(3).integers(0, 2**32, (40_000, 32), np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.abs(values) <= largest_of(type_name), values, np.float32(0.25))
    assert np.array_equal(codec_for(type_name).encode(values), quantize(ggml, type_name, values))


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
def test_floats_of_any_bit_pattern(ggml: ctypes.CDLL, type_name: str) -> None:
    """All but NaNs, whose payload is nobody's business, and what float16 cannot hold."""
    bits = np.random.default_rng(4).integers(0, 2**32, (1000, 10_240), np.uint32)
    values = bits.view(np.float32)
    largest = 65519.0 if type_name == "F16" else 3.38e38
    values = np.where(np.abs(values) <= largest, values, np.float32(np.inf))
    assert np.array_equal(codec_for(type_name).encode(values), quantize(ggml, type_name, values))


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
def test_floats_on_and_beside_every_border(ggml: ctypes.CDLL, type_name: str) -> None:
    """Every float16 (bfloat16), the middle to the next, and the float32 numbers on both sides of both."""
    halves = codec_for(type_name).decode(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    halves = np.sort(halves[np.isfinite(halves)]).astype(np.float64)
    borders = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2]).astype(np.float32)
    up, down = np.nextafter(borders, np.float32(np.inf)), np.nextafter(borders, np.float32(-np.inf))
    values = np.concatenate([borders, up, down])[None, :]
    assert np.array_equal(codec_for(type_name).encode(values), quantize(ggml, type_name, values))


@pytest.mark.parametrize("type_name", TYPES)
def test_ten_million_values_of_every_kind(ggml: ctypes.CDLL, type_name: str) -> None:
    """Blocks of all sizes down to float32's subnormals: random, on rounding borders, tied, with zeros, one outlier."""
    rows = ten_million_values(largest_of(type_name))
    assert rows.size >= 10_000_000
    threads = Threads(2)
    ours = encode_rows(codec_for(type_name), rows, threads)
    threads.close()
    assert np.array_equal(ours, quantize(ggml, type_name, rows))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("kind", ["normal", "offset", "heavy tails", "few columns count"])
def test_the_weighted_error_is_not_above_that_of_ggml(ggml: ctypes.CDLL, type_name: str, kind: str) -> None:
    rng = np.random.default_rng(5)
    values = (0.02 * rng.standard_normal((300, 512))).astype(np.float32)
    importance = np.exp(1.5 * rng.standard_normal(512)).astype(np.float32)
    if kind == "offset":
        values += np.float32(0.03)
    if kind == "heavy tails":
        values *= np.exp(rng.standard_normal(values.shape)).astype(np.float32)
    if kind == "few columns count":
        importance = np.where(rng.random(512) < 0.9, 0.0, importance).astype(np.float32)
    codec = codec_for(type_name)
    weights = importance * np.sqrt((values**2).mean(axis=1, keepdims=True) + values**2)
    ours, theirs = (
        np.sqrt((weights * (codec.decode(packed) - values) ** 2).sum() / weights.sum())
        for packed in (codec.encode(values, importance), quantize(ggml, type_name, values, importance))
    )
    assert ours <= 1.01 * theirs
