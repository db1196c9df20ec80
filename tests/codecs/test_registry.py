"""Every type that gguf-py decodes has a codec; finding it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gguf.quants import _type_traits

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import DECODABLE, ENCODABLE, codec_for
from entrenar_core.errors import FormatError


def test_the_decodable_types_are_those_of_gguf_py_and_one_more() -> None:
    """gguf-py reads F32 and F16 without a codec, and Q1_0 not at all."""
    assert {kind.name for kind in _type_traits} | {"F32", "F16", "Q1_0"} == DECODABLE


def test_what_can_be_written_can_be_read() -> None:
    assert ENCODABLE < DECODABLE


@pytest.mark.parametrize("type_name", sorted(DECODABLE))
def test_a_codec_knows_its_block(type_name: str) -> None:
    codec, entry = codec_for(type_name), TYPE_BY_NAME[type_name]
    assert (codec.type_name, codec.block_size, codec.block_bytes) == (type_name, entry.block_size, entry.block_bytes)
    assert codec_for(type_name) is codec


@pytest.mark.parametrize("type_name", sorted(DECODABLE - ENCODABLE))
def test_a_type_that_can_only_be_read_refuses_to_encode(type_name: str) -> None:
    with pytest.raises(FormatError, match=f"{type_name} can be read but not written"):
        codec_for(type_name).encode(np.zeros(256, np.float32))


def test_an_undecodable_or_unknown_type_is_an_error() -> None:
    with pytest.raises(FormatError, match="type Q8_K cannot be decoded"):
        codec_for("Q8_K")
    with pytest.raises(FormatError, match="unknown tensor type 'F17'"):
        codec_for("F17")


@pytest.mark.parametrize("library", ["gguf", "numba"])
def test_finding_every_codec_imports_neither_gguf_py_nor_numba(library: str) -> None:
    code = (
        "import sys; from entrenar_core.codecs.registry import DECODABLE, codec_for; "
        f"[codec_for(name) for name in DECODABLE]; sys.exit('{library}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
