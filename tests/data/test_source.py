"""Opening a parquet file: what is read, and what each kind of broken file is told."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.data.source import ParquetSource
from entrenar_core.errors import DataError


def write(path: Path, columns: dict[str, object], row_group_size: int | None = None) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_columns_keep_file_order_and_know_whether_they_are_text(tmp_path: Path) -> None:
    source = ParquetSource.open(write(tmp_path / "a.parquet", {"id": [1, 2], "text": ["x", "y"]}))
    assert list(source.columns) == ["id", "text"]
    assert not source.columns["id"].is_text
    assert source.columns["id"].type_name == "int64"
    assert source.columns["text"].is_text
    assert source.n_rows == 2


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_arrow_string_type_is_text(tmp_path: Path, type_: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array(["x", None, "y"]).cast(type_)})
    source = ParquetSource.open(path)
    assert source.columns["text"].is_text
    assert list(source.read(["text"])) == [(["x", None, "y"],)]


@pytest.mark.parametrize(
    "values", [[1], [1.5], [True], [b"x"], [["x"]], [{"a": "x"}], pa.nulls(1)], ids=lambda v: str(pa.array(v).type)
)
def test_other_types_are_not_text(tmp_path: Path, values: object) -> None:
    assert not ParquetSource.open(write(tmp_path / "a.parquet", {"text": values})).columns["text"].is_text


def test_rows_come_in_file_order_in_batches_that_follow_the_columns_asked_for(tmp_path: Path) -> None:
    n = 5000
    path = write(
        tmp_path / "a.parquet",
        {"q": [f"q{i}" for i in range(n)], "unused": [0] * n, "a": [f"a{i}" for i in range(n)]},
        row_group_size=700,
    )
    batches = list(ParquetSource.open(path).read(["a", "q"]))
    assert len(batches) > 1
    assert [value for batch in batches for value in batch[0]] == [f"a{i}" for i in range(n)]
    assert [value for batch in batches for value in batch[1]] == [f"q{i}" for i in range(n)]


def test_a_column_name_may_contain_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"chat.text": ["x"], "chat": [{"text": "no"}]})
    assert list(ParquetSource.open(path).read(["chat.text"])) == [(["x"],)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as error:
        ParquetSource.open(tmp_path / "nope.parquet")
    assert error.value.where == str(tmp_path / "nope.parquet")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", {"text": ["x"]})
    with pytest.raises(DataError) as error:
        ParquetSource.open(tmp_path / "trian.parquet")
    assert "train.parquet" in str(error.value.hint)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        ParquetSource.open(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match="empty"):
        ParquetSource.open(tmp_path / "a.parquet")


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text('{"text": "hello"}\n' * 10)
    with pytest.raises(DataError, match="not a parquet file"):
        ParquetSource.open(tmp_path / "a.parquet")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["hello"] * 100})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="truncated"):
        ParquetSource.open(path)


def test_a_broken_footer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["hello"] * 100})
    data = bytearray(path.read_bytes())
    data[-60:-8] = b"\xff" * 52
    path.write_bytes(bytes(data))
    with pytest.raises(DataError) as error:
        ParquetSource.open(path)
    assert error.value.where == str(path)


def test_zero_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": pa.array([], pa.string())})
    with pytest.raises(DataError, match="no rows"):
        ParquetSource.open(path)


def test_damaged_pages_are_an_error_and_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"some text {i}" for i in range(5000)]})
    pq.write_table(table, path, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[2000:2100] = bytes(value ^ 0x5A for value in data[2000:2100])
    path.write_bytes(bytes(data))
    source = ParquetSource.open(path)
    with pytest.raises(DataError, match="cannot be read") as error:
        list(source.read(["text"]))
    assert error.value.where == str(path)


def test_text_that_is_not_utf8_is_an_error_that_names_column_and_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"also fine", b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    path = write(tmp_path / "a.parquet", {"text": text})
    with pytest.raises(DataError, match="UTF-8") as error:
        list(ParquetSource.open(path).read(["text"]))
    assert error.value.where == f"{path}: column text, row 3"


@pytest.mark.property
@pytest.mark.parametrize("checksums", [False, True])
def test_a_damaged_file_gives_strings_or_one_clear_error(tmp_path: Path, checksums: bool) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"some text {index}" for index in range(500)]})
    pq.write_table(table, path, write_page_checksum=checksums)
    intact = path.read_bytes()
    outcomes = set()
    for seed in range(60):
        damage = random.Random(seed)
        data = bytearray(intact)
        for _ in range(3):
            data[damage.randrange(len(data))] = damage.randrange(256)
        path.write_bytes(bytes(data))
        try:
            for (texts,) in ParquetSource.open(path).read(["text"]):
                assert all(isinstance(text, str) for text in texts)
            outcomes.add("read")
        except DataError as error:
            assert str(path) in str(error.where)
            outcomes.add("refused")
    assert "refused" in outcomes


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns have the same name"):
        ParquetSource.open(tmp_path / "a.parquet")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        ParquetSource.open(tmp_path / "nowhere" / "a.parquet")
    assert "nowhere does not exist either" in str(error.value.hint)
