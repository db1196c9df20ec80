"""Every block type decodes as llama.cpp itself decodes it: ggml's `to_float`, called in llama-cpp-python's library."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import DECODABLE, codec_for
from tests.codecs.packed_blocks import assert_same_bits, random_blocks

llama_cpp = pytest.importorskip("llama_cpp")

TYPES = sorted(name for name in DECODABLE if TYPE_BY_NAME[name].block_size > 1)


class TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return library


@pytest.mark.parametrize("type_name", TYPES)
def test_random_blocks_decode_as_in_llama_cpp(ggml: ctypes.CDLL, type_name: str) -> None:
    kind = TYPE_BY_NAME[type_name]
    traits = ggml.ggml_get_type_traits(kind.id).contents
    assert (traits.type_name.decode().upper(), traits.block_size, traits.block_bytes) == (
        type_name,
        kind.block_size,
        kind.block_bytes,
    )
    raw = random_blocks(type_name, 5000)
    theirs = np.full((len(raw), kind.block_size), np.nan, np.float32)
    traits.to_float(raw.ctypes.data, theirs.ctypes.data, theirs.size)
    assert_same_bits(codec_for(type_name).decode(raw), theirs)
