"""Every type that gguf-py decodes has a codec with the same values."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import _type_traits, dequantize

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, GGMLType
from entrenar_core.codecs.gguf_py import DECODABLE_BY_GGUF_PY, GgufPyCodec
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError


def test_the_list_of_decodable_types_is_that_of_gguf_py() -> None:
    assert {kind.name for kind in _type_traits} - {"BF16"} == DECODABLE_BY_GGUF_PY


@pytest.mark.parametrize("type_name", sorted(DECODABLE_BY_GGUF_PY))
def test_random_blocks_decode_bit_for_bit_as_in_gguf_py(type_name: str) -> None:
    codec = codec_for(type_name)
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (5, 3 * codec.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        theirs = dequantize(raw, GGMLQuantizationType[type_name])
    ours = codec.decode(raw)
    assert ours.shape == (5, 3 * codec.block_size)
    assert ours.dtype == np.float32
    number = ~np.isnan(theirs)
    assert np.array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    assert np.isnan(ours[~number]).all()


def test_many_blocks_are_decoded_in_pieces_into_the_given_array() -> None:
    codec = codec_for("Q8_0")
    raw = np.zeros((1100, 1024 // 32 * 34), np.uint8)
    raw.reshape(-1, 34)[:, :2] = np.array([0.5], np.float16).view(np.uint8)
    raw.reshape(-1, 34)[:, 2:] = 4
    out = np.empty((1100, 1024), np.float32)
    assert codec.decode(raw, out) is out
    assert (out == 2.0).all()


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q4_K"])
def test_a_codec_knows_its_block(type_name: str) -> None:
    codec, entry = codec_for(type_name), TYPE_BY_NAME[type_name]
    assert (codec.type_name, codec.block_size, codec.block_bytes) == (type_name, entry.block_size, entry.block_bytes)


def test_a_type_that_can_only_be_read_refuses_to_encode() -> None:
    with pytest.raises(FormatError, match="Q4_K can be read but not written"):
        codec_for("Q4_K").encode(np.zeros(256, np.float32))


def test_a_type_that_an_old_gguf_package_lacks_is_an_error_that_says_so() -> None:
    with pytest.raises(FormatError, match="installed gguf package does not know Q_NEW"):
        GgufPyCodec(GGMLType(999, "Q_NEW", 32, 18)).decode(np.zeros(18, np.uint8))


def test_an_undecodable_or_unknown_type_is_an_error() -> None:
    with pytest.raises(FormatError, match="type Q8_K cannot be decoded"):
        codec_for("Q8_K")
    with pytest.raises(FormatError, match="unknown tensor type 'F17'"):
        codec_for("F17")


def test_importing_the_registry_does_not_import_gguf_py() -> None:
    code = "import sys; import entrenar_core.codecs.registry; sys.exit('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
