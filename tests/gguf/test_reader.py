"""Reading well-formed GGUF files: metadata, tensors, byte orders, real models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import DECODABLE
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue, ValueType
from tests.gguf.build_small import SmallGGUF, small_model


@pytest.fixture(params=[("<", 2), ("<", 3), (">", 3)], ids=["v2", "v3", "big-endian"])
def model_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return small_model(*request.param).write(tmp_path / "small.gguf")


def test_metadata_has_plain_values(model_path: Path) -> None:
    metadata = GGUFFile.open(model_path).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == 2
    assert metadata["llama.rope.freq_base"] == 10000.0
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert np.array_equal(metadata["tokenizer.ggml.scores"], np.array([0.5, -1.0, 2.0], np.float32))
    assert np.array_equal(metadata["tokenizer.ggml.token_type"], np.array([1, -3, 6], np.int32))
    assert "no.such.key" not in metadata
    assert len(metadata) == 7


def test_tokens_of_any_bytes_become_strings_that_encode_back(model_path: Path) -> None:
    tokens = GGUFFile.open(model_path).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert tokens == ["a", "é", "", "\udcff\udcfe", "x" * 300]
    assert tokens[3].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_tensors_are_listed_in_file_order_with_numpy_shapes(model_path: Path) -> None:
    tensors = GGUFFile.open(model_path).tensors
    assert [(info.name, info.shape, info.type_name, info.n_bytes) for info in tensors.values()] == [
        ("token_embd.weight", (3, 4), "F32", 48),
        ("blk.0.attn_q.weight", (2, 4), "F16", 16),
        ("output_norm.weight", (5,), "F32", 20),
    ]
    assert tensors["token_embd.weight"].n_values == 12


def test_load_gives_fresh_float32_values_in_numpy_order(model_path: Path) -> None:
    file = GGUFFile.open(model_path)
    assert np.array_equal(file.load("token_embd.weight"), np.arange(12, dtype=np.float32).reshape(3, 4) + 0.5)
    query = file.load("blk.0.attn_q.weight")
    assert query.dtype == np.float32
    assert query.flags.writeable
    assert np.array_equal(query, np.arange(8, dtype=np.float32).reshape(2, 4) + 0.5)
    assert np.array_equal(file.load("output_norm.weight"), np.arange(5, dtype=np.float32) + 0.5)


def test_load_takes_a_slice_of_rows(model_path: Path) -> None:
    file = GGUFFile.open(model_path)
    assert file.load("token_embd.weight", rows=slice(1, 3)).tolist() == [[4.5, 5.5, 6.5, 7.5], [8.5, 9.5, 10.5, 11.5]]
    with pytest.raises(ValueError, match="slice of a matrix"):
        file.load("output_norm.weight", rows=slice(0, 2))
    with pytest.raises(ValueError, match="step 1"):
        file.load("token_embd.weight", rows=slice(0, 3, 2))


def test_raw_bytes_are_little_endian_rows(model_path: Path) -> None:
    raw = GGUFFile.open(model_path).raw("blk.0.attn_q.weight")
    assert raw.shape == (2, 8)
    assert raw.view("<f2")[0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert np.array_equal(raw.view("<f2").ravel(), np.arange(8) + 0.5)


def test_raw_is_a_read_only_view_of_the_file(tmp_path: Path) -> None:
    raw = GGUFFile.open(small_model().write(tmp_path / "m.gguf")).raw("token_embd.weight")
    assert not raw.flags.writeable
    assert not raw.flags.owndata


def test_arrays_stay_valid_after_the_file_is_closed_and_the_file_says_it_is_closed(model_path: Path) -> None:
    with GGUFFile.open(model_path) as file:
        raw = file.raw("output_norm.weight")
    assert raw.view("<f4").tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 5  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        file.raw("output_norm.weight")


def test_an_unknown_tensor_name_gets_the_nearest_one(model_path: Path) -> None:
    with pytest.raises(FormatError, match=r"mean token_embd\.weight"):
        GGUFFile.open(model_path).load("token_emb.weight")


def test_entries_keep_the_exact_types(model_path: Path) -> None:
    entries = dict(GGUFFile.open(model_path).metadata_entries())
    assert entries["llama.block_count"] == MetadataValue.uint32(2)
    assert entries["llama.block_count"] != MetadataValue.int32(2)
    assert entries["tokenizer.ggml.token_type"] == MetadataValue.array(ValueType.INT32, [1, -3, 6])
    assert entries["tokenizer.ggml.tokens"].element_type is ValueType.STRING


def test_nested_arrays_become_nested_lists(tmp_path: Path) -> None:
    small = SmallGGUF()
    inner = small.pack("IQ2I", 4, 2, 7, 8) + small.pack("IQ", 8, 1) + small.text(b"hi")
    small.array("nested", 9, 2, inner)
    nested = GGUFFile.open(small.write(tmp_path / "m.gguf")).metadata["nested"]
    assert isinstance(nested, list)
    assert nested[0].tolist() == [7, 8]
    assert nested[1] == ["hi"]


def test_every_scalar_type_is_read(tmp_path: Path) -> None:
    small = SmallGGUF()
    for type_id, letter, value in [(0, "B", 255), (1, "b", -1), (2, "H", 65535), (3, "h", -2), (5, "i", -3)]:
        small.entry(f"k{type_id}", type_id, small.pack(letter, value))
    small.entry("k10", 10, small.pack("Q", 2**64 - 1)).entry("k11", 11, small.pack("q", -(2**63)))
    small.entry("k12", 12, small.pack("d", 0.1))
    metadata = GGUFFile.open(small.write(tmp_path / "m.gguf")).metadata
    assert list(metadata.values()) == [255, -1, 65535, -2, -3, 2**64 - 1, -(2**63), 0.1]


def test_the_alignment_of_the_file_is_respected(tmp_path: Path) -> None:
    small = SmallGGUF(alignment=256).uint32("general.alignment", 256)
    small.tensor("a", (2,), 0, b"\0" * 8).tensor("b", (1,), 0, b"\0\0\x80?")
    file = GGUFFile.open(small.write(tmp_path / "m.gguf"))
    assert file.alignment == 256
    assert file.load("b").tolist() == [1.0]


def test_a_tensor_without_axes_is_one_value(tmp_path: Path) -> None:
    file = GGUFFile.open(SmallGGUF().tensor("a", (), 0, b"\0\0\x80?").write(tmp_path / "m.gguf"))
    assert file.load("a").shape == ()
    assert float(file.load("a")) == 1.0


def test_a_vocabulary_file_without_tensors_needs_no_padding(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SmallGGUF().string("general.architecture", b"llama").header())
    assert GGUFFile.open(path).tensors == {}


@pytest.mark.parametrize("type_name", sorted(DECODABLE - {"F32", "F16", "BF16", "Q1_0"}))
def test_a_quantized_tensor_loads_as_gguf_py_decodes_it(type_name: str, tmp_path: Path) -> None:
    entry = TYPE_BY_NAME[type_name]
    raw = np.random.default_rng(3).integers(0, 256, (4, 2 * entry.block_bytes), np.uint8)
    small = SmallGGUF().tensor("w", (2 * entry.block_size, 4), entry.id, raw.tobytes())
    file = GGUFFile.open(small.write(tmp_path / "m.gguf"))
    with np.errstate(all="ignore"):
        expected = dequantize(raw, GGMLQuantizationType[type_name])
    number = ~np.isnan(expected)
    loaded = file.load("w")
    assert np.array_equal(file.raw("w"), raw)
    assert np.array_equal(loaded[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(loaded[~number]).all()
    assert np.array_equal(file.load("w", rows=slice(1, 3)), loaded[1:3], equal_nan=True)


def test_quantized_blocks_of_a_big_endian_file_are_refused_by_name(tmp_path: Path) -> None:
    small = SmallGGUF(order=">").tensor("w", (32, 1), 2, bytes(18))
    file = GGUFFile.open(small.write(tmp_path / "m.gguf"))
    with pytest.raises(FormatError, match=r"tensor w: Q4_0 blocks of a big-endian file"):
        file.load("w")


def test_a_tensor_without_float_values_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = GGUFFile.open(SmallGGUF().tensor("ids", (2,), 26, bytes(8)).write(tmp_path / "m.gguf"))
    assert file.raw("ids").shape == (8,)
    with pytest.raises(FormatError, match=r"m\.gguf: tensor ids: tensors of type I32 cannot be decoded"):
        file.load("ids")


def test_a_real_model_equals_what_gguf_py_reads(shared_data: Path) -> None:
    path = shared_data / "models" / "base-7m-f16.gguf"
    ours, theirs = GGUFFile.open(path), GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.shape[::-1], info.type_name) == (tuple(tensor.shape.tolist()), tensor.tensor_type.name)
        assert info.offset == tensor.data_offset
        assert np.array_equal(ours.load(tensor.name), tensor.data.astype(np.float32))
    for key in ours.metadata:
        assert np.array_equal(ours.metadata[key], theirs.get_field(key).contents())  # type: ignore[arg-type, union-attr]


TIMED_OPEN = """
import sys, time
from entrenar_core.gguf.reader import GGUFFile
seconds = []
for _ in range(3):
    start = time.process_time()
    metadata = GGUFFile.open(sys.argv[1]).metadata
    opened = time.process_time()
    counts = [len(metadata["tokenizer.ggml." + name]) for name in ("tokens", "merges")]
    seconds.append((opened - start, time.process_time() - start))
assert counts == [128256, 280147]
print(*min(seconds))
"""


def test_a_vocabulary_of_128k_tokens_opens_within_the_budget(shared_data: Path) -> None:
    """In a process of its own, so that a coverage tracer in this one is not measured."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    command = [sys.executable, "-c", TIMED_OPEN, str(shared_data / "vocabs" / "ggml-vocab-llama-bpe.gguf")]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    opened, decoded = map(float, run.stdout.split())
    assert opened < 0.15
    assert decoded < 0.3


def test_importing_the_reader_imports_neither_gguf_py_nor_numba() -> None:
    code = "import sys, entrenar_core.gguf.writer; sys.exit(bool({'gguf', 'numba', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_of_a_big_endian_file_cost_no_more_than_those_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large matrix that is read piece by piece would otherwise be turned round as a whole for every piece."""
    swapped: list[int] = []
    swap = GGUFFile._swapped

    def counted(file: GGUFFile, info: TensorInfo, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        swapped.append(packed.nbytes)
        return swap(file, info, packed)

    monkeypatch.setattr(GGUFFile, "_swapped", counted)
    with GGUFFile.open(small_model(">", 3).write(tmp_path / "small.gguf")) as file:
        assert np.array_equal(file.load("token_embd.weight", rows=slice(1, 2)), [[4.5, 5.5, 6.5, 7.5]])
    assert swapped == [16]
