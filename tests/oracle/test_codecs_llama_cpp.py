"""The bytes of the legacy block types are those of ggml's reference quantizer.

It is called in the library that llama-cpp-python brings.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from tests.codecs.blocks import adversarial_blocks, largest_of, random_rows

llama_cpp = pytest.importorskip("llama_cpp")

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


def quantize(ggml: ctypes.CDLL, type_name: str, rows: np.ndarray) -> np.ndarray:
    """ggml's bytes of float32 rows, uint8 [rows, row_bytes]."""
    kind, rows = TYPE_BY_NAME[type_name], np.ascontiguousarray(rows)
    packed = np.zeros((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    size = ggml.ggml_quantize_chunk(kind.id, rows.ctypes.data, packed.ctypes.data, 0, len(rows), rows.shape[1], None)
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
