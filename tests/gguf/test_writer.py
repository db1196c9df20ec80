"""Writing GGUF files: byte-exact metadata, streamed tensors, nothing left behind after an error."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import EntrenarError, OutputError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import TensorPlan, copy_tensor, encode_tensor, write_gguf
from tests.gguf.build_small import small_model

ARCHITECTURE = ("general.architecture", MetadataValue.string("llama"))


def plan(name: str = "w", values: int = 3, produced: int | None = None) -> TensorPlan:
    count = values if produced is None else produced
    return TensorPlan(name, (values,), "F32", lambda: np.zeros(4 * count, np.uint8))


def rewrite(source: Path, target: Path) -> None:
    with GGUFFile.open(source) as file:
        write_gguf(target, file.metadata_entries(), [copy_tensor(file, name) for name in file.tensors])


def test_a_file_that_is_copied_has_the_same_bytes(tmp_path: Path) -> None:
    source = small_model().write(tmp_path / "a.gguf")
    rewrite(source, tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


def test_metadata_that_was_decoded_is_written_with_the_same_bytes(tmp_path: Path) -> None:
    source = small_model().write(tmp_path / "a.gguf")
    file = GGUFFile.open(source)
    entries = [
        (key, value if value.element_type is None else MetadataValue.array(value.element_type, value.value))
        for key, value in file.metadata_entries()
    ]
    write_gguf(tmp_path / "b.gguf", entries, [copy_tensor(file, name) for name in file.tensors])
    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("order", "version"), [("<", 2), (">", 3), (">", 2)])
def test_old_and_big_endian_files_are_rewritten_as_version_3_little_endian(
    order: str, version: int, tmp_path: Path
) -> None:
    rewrite(small_model(order, version).write(tmp_path / "a.gguf"), tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == small_model().build()


def test_a_real_vocabulary_survives_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "vocabs" / "ggml-vocab-llama-bpe.gguf"
    rewrite(source, tmp_path / "b.gguf")
    ours, theirs = (tmp_path / "b.gguf").read_bytes(), source.read_bytes()
    assert ours[4:8] == struct.pack("<I", 3)
    assert ours[8 : len(theirs)] == theirs[8:]


def test_a_real_model_survives_byte_for_byte_and_opens_in_gguf_py(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "models" / "base-7m-f16.gguf"
    rewrite(source, tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
    entries = [
        ARCHITECTURE,
        ("llama.block_count", MetadataValue.uint32(2)),
        ("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, ["a", "é"])),
        ("tokenizer.ggml.scores", MetadataValue.array(ValueType.FLOAT32, [0.5, 1.0])),
    ]
    tensors = [encode_tensor(f"w_{kind}", values, kind) for kind in ("F32", "F16", "BF16")]
    path = tmp_path / "m.gguf"
    assert write_gguf(path, entries, tensors) == path.stat().st_size
    reader = GGUFReader(path)
    assert [(t.name, t.tensor_type.name, t.shape.tolist()) for t in reader.tensors] == [
        ("w_F32", "F32", [4, 3, 2]),
        ("w_F16", "F16", [4, 3, 2]),
        ("w_BF16", "BF16", [4, 3, 2]),
    ]
    assert np.array_equal(reader.tensors[0].data, values)
    assert np.array_equal(reader.tensors[1].data, values.astype(np.float16))
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "é"]  # type: ignore[union-attr]
    for info in GGUFFile.open(path).tensors:
        assert np.array_equal(GGUFFile.open(path).load(info), values)


def test_the_alignment_asked_for_is_used(tmp_path: Path) -> None:
    entries = [ARCHITECTURE, ("general.alignment", MetadataValue.uint32(128))]
    write_gguf(tmp_path / "m.gguf", entries, [plan("a", 1), plan("b", 1)])
    file = GGUFFile.open(tmp_path / "m.gguf")
    assert [info.offset % 128 for info in file.tensors.values()] == [0, 0]
    assert (tmp_path / "m.gguf").stat().st_size % 128 == 0


def test_tensors_are_produced_one_at_a_time_in_order(tmp_path: Path) -> None:
    calls: list[str] = []

    def produce(name: str) -> Iterator[np.ndarray]:
        for piece in range(2):
            calls.append(f"{name}{piece}")
            yield np.full(8, piece, np.uint8)

    plans = [TensorPlan(name, (2, 2), "F32", lambda name=name: produce(name)) for name in "ab"]  # type: ignore[misc]
    write_gguf(tmp_path / "m.gguf", [ARCHITECTURE], plans)
    assert calls == ["a0", "a1", "b0", "b1"]
    assert GGUFFile.open(tmp_path / "m.gguf").raw("b").tolist() == [[0] * 8, [1] * 8]


def test_a_tensor_is_encoded_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrenar_core.gguf.writer._ENCODE_VALUES", 7)
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor("w", values, "F16"), encode_tensor("s", values[0, 0], "F32")])
    file = GGUFFile.open(tmp_path / "m.gguf")
    assert np.array_equal(file.load("w"), values)
    assert file.load("s").shape == ()


def test_a_file_in_use_can_be_replaced_from_its_own_tensors(tmp_path: Path) -> None:
    path = small_model().write(tmp_path / "m.gguf")
    before = path.read_bytes()
    rewrite(path, path)
    assert path.read_bytes() == before


def test_the_new_file_has_the_access_rights_of_the_umask(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", [ARCHITECTURE], [])
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.gguf").stat().st_mode == (tmp_path / "plain").stat().st_mode


def refuse(tmp_path: Path, entries: list[tuple[str, MetadataValue]], plans: list[TensorPlan], message: str) -> None:
    """The error is raised, the old file is still whole and nothing else is in the folder."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(EntrenarError, match=message) as caught:
        write_gguf(path, entries, plans)
    assert str(path) in str(caught.value.where)
    assert os.listdir(tmp_path) == ["m.gguf"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("produced", "message"), [(2, "8 bytes were produced"), (4, "more than 12 bytes")])
def test_a_producer_that_gives_another_number_of_bytes_is_refused(produced: int, message: str, tmp_path: Path) -> None:
    refuse(tmp_path, [], [plan(), plan("bad", produced=produced)], rf"tensor bad: {message}")


def test_names_and_keys_that_clash_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, [ARCHITECTURE, ARCHITECTURE], [], "the key occurs twice")
    refuse(tmp_path, [("", ARCHITECTURE[1])], [], "1 to 65535 bytes")
    refuse(tmp_path, [], [plan(), plan()], "tensor w: the tensor occurs twice")
    refuse(tmp_path, [], [plan("x" * 64)], "1 to 63 bytes")
    refuse(tmp_path, [], [TensorPlan("w", (3,), "Q9_9", lambda: np.zeros(3, np.uint8))], "unknown tensor type")
    refuse(tmp_path, [], [TensorPlan("w", (3,), "Q4_0", lambda: np.zeros(3, np.uint8))], "divide into Q4_0")
    refuse(tmp_path, [("general.alignment", MetadataValue.uint32(24))], [], "power of two")
    refuse(tmp_path, [("split.count", MetadataValue.uint16(2))], [], "not one of 2 shards")


@pytest.mark.parametrize("count", [MetadataValue.string("2"), MetadataValue.float32(0.0), MetadataValue.bool(True)])
def test_a_split_count_that_no_reader_could_read_is_not_written(count: MetadataValue, tmp_path: Path) -> None:
    refuse(tmp_path, [("split.count", count)], [], "no whole number")


def test_a_file_that_does_not_read_back_is_not_kept(tmp_path: Path) -> None:
    cut = MetadataValue(ValueType.UINT32, 1, encoded=memoryview(b"\1\0"))
    refuse(tmp_path, [("a", cut), ARCHITECTURE], [plan()], "does not read back as it was written")


def test_a_shape_of_five_axes_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, [], [TensorPlan("w", (1,) * 5, "F32", lambda: np.zeros(4, np.uint8))], "w: 5 dimensions")


def test_an_overflow_while_encoding_names_the_tensor(tmp_path: Path) -> None:
    large = np.full((2, 2), 1e6, np.float32)
    refuse(tmp_path, [], [encode_tensor("blk.0.ffn_up.weight", large, "F16")], r"ffn_up\.weight: 1e\+06 is too large")


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_producer_that_fails_leaves_nothing_behind(failure: type[BaseException], tmp_path: Path) -> None:
    def produce() -> np.ndarray:
        raise failure

    with pytest.raises(failure):
        write_gguf(tmp_path / "m.gguf", [], [plan(), TensorPlan("bad", (1,), "F32", produce)])
    assert os.listdir(tmp_path) == []


def test_a_producer_of_another_dtype_is_a_programming_error(tmp_path: Path) -> None:
    wrong = TensorPlan("w", (1,), "F32", lambda: np.zeros(1, np.float32))  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="must give uint8"):
        write_gguf(tmp_path / "m.gguf", [], [wrong])


def test_a_folder_that_is_missing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file") as caught:
        write_gguf(tmp_path / "none" / "m.gguf", [], [])
    assert caught.value.hint == f"create the folder {tmp_path / 'none'} first"


def test_a_folder_of_that_name_or_a_folder_that_takes_no_files_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder of this name"):
        write_gguf(tmp_path, [], [])
    with pytest.raises(OutputError, match="cannot be written"):
        write_gguf("/proc/m.gguf", [], [])


def test_a_file_larger_than_the_disk_is_refused_before_anything_is_produced(tmp_path: Path) -> None:
    def produce() -> np.ndarray:
        raise AssertionError("must not be called")

    refuse(tmp_path, [], [TensorPlan("w", (2**50,), "F32", produce)], "the disk has")


def test_a_disk_that_fills_up_is_an_output_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: the write fails in the same place."""
    code = """
import resource, signal, sys
import numpy as np
from entrenar_core.errors import OutputError
from entrenar_core.gguf.writer import TensorPlan, write_gguf
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_gguf(sys.argv[1], [], [TensorPlan("w", (1 << 20,), "F32", lambda: np.zeros(1 << 22, np.uint8))])
except OutputError as error:
    sys.exit(0 if "File too large" in str(error) else 3)
sys.exit(4)
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.gguf")], check=False)
    assert run.returncode == 0
    assert os.listdir(tmp_path) == []


READ_BACK = {"general.alignment", "split.count"}
"""Keys that tell a reader how to read the file: not every value does."""

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda key: key not in READ_BACK)
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(MetadataValue.int64),
    st.floats(width=32).map(MetadataValue.float32),
    st.booleans().map(MetadataValue.bool),
    st.binary(max_size=30).map(lambda data: MetadataValue.string(data.decode("utf-8", "surrogateescape"))),
    st.lists(st.integers(-128, 127)).map(lambda items: MetadataValue.array(ValueType.INT8, items)),
    st.lists(st.text(max_size=5).filter(str.isascii)).map(lambda items: MetadataValue.array(ValueType.STRING, items)),
)


@pytest.mark.property
@given(entries=st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_metadata_comes_back_as_it_was_written(
    entries: dict[str, MetadataValue], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.gguf"
    write_gguf(path, entries.items(), [])
    assert dict(GGUFFile.open(path).metadata_entries()) == entries
