"""What holds for every block type: values are those of gguf-py to the bit, whatever the rows lie in and go to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs import block_codec
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import DECODABLE, codec_for
from entrenar_core.errors import FormatError
from entrenar_core.jit import jit_enabled
from tests.codecs.packed_blocks import assert_same_bits, dequantized, finite_blocks, random_blocks

TYPES = sorted(name for name in DECODABLE if TYPE_BY_NAME[name].block_size > 1)
MANY = 3000 if jit_enabled() else 20


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of plain kernels: scales are NaN too
@pytest.mark.parametrize("type_name", TYPES)
def test_random_blocks_decode_as_in_gguf_py(type_name: str) -> None:
    raw = random_blocks(type_name, MANY)
    assert_same_bits(codec_for(type_name).decode(raw), dequantized(type_name, raw))


@pytest.mark.parametrize("type_name", TYPES)
def test_every_byte_value_in_every_place_decodes_as_in_gguf_py(type_name: str) -> None:
    step = 1 if jit_enabled() else 37
    bytes_ = np.arange(0, 256, step, dtype=np.uint8)[:, None]
    raw = np.ascontiguousarray(np.broadcast_to(bytes_, (len(bytes_), TYPE_BY_NAME[type_name].block_bytes)))
    assert_same_bits(codec_for(type_name).decode(raw), dequantized(type_name, raw))


@pytest.mark.parametrize("type_name", TYPES)
def test_some_blocks_of_each_row_decode_without_the_others(type_name: str) -> None:
    size, values = TYPE_BY_NAME[type_name].block_bytes, TYPE_BY_NAME[type_name].block_size
    raw = finite_blocks(type_name, 20).reshape(4, 5 * size)
    whole = dequantized(type_name, raw)
    assert_same_bits(codec_for(type_name).decode(raw[1:, size : 3 * size]), whole[1:, values : 3 * values])
    assert_same_bits(codec_for(type_name).decode(raw[::-2]), whole[::-2])


@pytest.mark.parametrize("type_name", TYPES)
def test_leading_axes_stay(type_name: str) -> None:
    size, values = TYPE_BY_NAME[type_name].block_bytes, TYPE_BY_NAME[type_name].block_size
    raw = finite_blocks(type_name, 12).reshape(2, 3, 2 * size)
    decoded = codec_for(type_name).decode(raw)
    assert decoded.shape == (2, 3, 2 * values)
    assert_same_bits(decoded, dequantized(type_name, raw))
    assert_same_bits(codec_for(type_name).decode(raw[:, 1:, size:]), decoded[:, 1:, values:])
    assert_same_bits(codec_for(type_name).decode(raw[1, 2]), decoded[1, 2])


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("blocks_per_piece", [1, 2, 3])
def test_rows_are_decoded_in_pieces(type_name: str, blocks_per_piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size, values = TYPE_BY_NAME[type_name].block_bytes, TYPE_BY_NAME[type_name].block_size
    monkeypatch.setattr(block_codec, "PIECE_VALUES", blocks_per_piece * values)
    raw = finite_blocks(type_name, 21).reshape(3, 7 * size)
    whole = dequantized(type_name, raw)
    assert_same_bits(codec_for(type_name).decode(raw), whole)
    assert_same_bits(codec_for(type_name).decode(raw[:, size : 6 * size]), whole[:, values : 6 * values])
    assert_same_bits(codec_for(type_name).decode(raw[:, : 2 * size]), whole[:, : 2 * values])


@pytest.mark.parametrize("type_name", TYPES)
def test_values_go_into_the_array_that_is_given(type_name: str) -> None:
    raw = finite_blocks(type_name, 6).reshape(2, -1)
    codec = codec_for(type_name)
    out = np.full((2, 3 * codec.block_size), np.nan, np.float32)
    assert codec.decode(raw, out) is out
    assert_same_bits(out, dequantized(type_name, raw))
    with pytest.raises(TypeError, match="shape"):
        codec.decode(raw, out.reshape(-1))


@pytest.mark.parametrize("type_name", TYPES)
def test_read_only_bytes_are_read_and_nothing_is_written_to_them(type_name: str) -> None:
    raw = finite_blocks(type_name, 3)
    before = raw.copy()
    codec_for(type_name).decode(raw)
    assert raw.flags.writeable
    assert np.array_equal(raw, before)
    raw.setflags(write=False)
    assert_same_bits(codec_for(type_name).decode(raw), dequantized(type_name, before))


@pytest.mark.parametrize("type_name", TYPES)
def test_no_blocks_have_no_values(type_name: str) -> None:
    codec = codec_for(type_name)
    assert codec.decode(np.empty((3, 0), np.uint8)).shape == (3, 0)
    assert codec.decode(np.empty((0, codec.block_bytes), np.uint8)).shape == (0, codec.block_size)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_part_of_a_block_is_refused(type_name: str) -> None:
    codec, entry = codec_for(type_name), TYPE_BY_NAME[type_name]
    with pytest.raises(FormatError, match=f"{entry.block_bytes + 1} bytes is not a whole number of {type_name} blocks"):
        codec.decode(np.zeros((2, entry.block_bytes + 1), np.uint8))
    with pytest.raises(TypeError, match="decodes uint8"):
        codec.decode(np.zeros((2, entry.block_bytes), np.int8))  # type: ignore[arg-type]


@pytest.mark.skipif(not jit_enabled(), reason="nothing is compiled with ENTRENAR_JIT=0")
def test_a_kernel_is_compiled_once_whatever_the_blocks_lie_in(tmp_path: Path) -> None:
    from entrenar_core.codecs.k_quants import decode_q4_k

    raw = finite_blocks("Q4_K", 6).reshape(2, -1)
    raw.tofile(tmp_path / "blocks")
    mapped = np.memmap(tmp_path / "blocks", np.uint8, "r", shape=raw.shape)
    codec = codec_for("Q4_K")
    for blocks in (raw, mapped, raw[:, 144:]):
        assert_same_bits(codec.decode(blocks), dequantized("Q4_K", np.ascontiguousarray(blocks)))
    assert decode_q4_k.n_loaded == 1


def test_plain_python_kernels_decode_as_compiled_ones_do() -> None:
    code = f"""
from entrenar_core.codecs.registry import codec_for
from tests.codecs.packed_blocks import assert_same_bits, dequantized, random_blocks
for name in {TYPES}:
    raw = random_blocks(name, 4)
    assert_same_bits(codec_for(name).decode(raw), dequantized(name, raw))
"""
    environment = os.environ | {"ENTRENAR_JIT": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
