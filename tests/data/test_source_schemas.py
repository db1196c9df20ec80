"""One schema for several files: what widens, what conflicts, and what a file that lacks a column is told."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.schemas import unify_types
from entrenar_core.data.source import DataSource
from entrenar_core.errors import DataError

STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.uint8(), pa.int8(), pa.int64()),
        (pa.uint64(), pa.int8(), pa.float64()),
        (pa.decimal128(10, 2), pa.int64(), pa.float64()),
        (pa.string(), pa.large_string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.binary(), pa.large_binary(), pa.binary()),
        (pa.null(), pa.bool_(), pa.bool_()),
        (pa.null(), pa.null(), pa.null()),
        (pa.date32(), pa.timestamp("ms"), pa.timestamp("ms")),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("s", "UTC"), pa.timestamp("s"), None),
        (pa.date32(), pa.timestamp("s", "UTC"), None),
        (pa.list_(pa.int32()), pa.large_list(pa.float32()), pa.list_(pa.float64())),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 3)),
        (pa.list_(pa.float32(), 3), pa.list_(pa.float32(), 4), pa.list_(pa.float32())),
        (pa.list_(pa.null()), pa.list_(STRUCT), pa.list_(STRUCT)),
        (
            STRUCT,
            pa.struct([("content", pa.null()), ("name", pa.string())]),
            pa.struct([*STRUCT, ("name", pa.string())]),
        ),
        (STRUCT, pa.struct([("content", pa.int64())]), None),
        (pa.int64(), pa.string(), None),
        (pa.bool_(), pa.int64(), None),
        (pa.string(), pa.binary(), None),
        (pa.string(), pa.list_(pa.string()), None),
    ],
    ids=str,
)
def test_types_widen_or_conflict(one: pa.DataType, other: pa.DataType, both: pa.DataType | None) -> None:
    assert unify_types(one, other) == both
    mirrored = unify_types(other, one)
    assert (mirrored is None) == (both is None)
    assert both is None or pa.types.is_struct(both) or mirrored == both


NUMBERS = (pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64())
TIMES = (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("s", "UTC"))
TYPES = st.sampled_from([pa.null(), pa.bool_(), pa.string(), pa.large_string(), *NUMBERS, *TIMES])
NESTED = st.recursive(TYPES, lambda inner: inner.map(pa.list_) | inner.map(lambda type_: pa.struct([("a", type_)])))


@pytest.mark.property
@given(one=NESTED, other=NESTED)
def test_a_wider_type_takes_both_again(one: pa.DataType, other: pa.DataType) -> None:
    both = unify_types(one, other)
    if both is not None:
        assert unify_types(both, one) == both
        assert unify_types(other, both) == both


def write(folder: Path, *tables: dict[str, Any]) -> str:
    for index, columns in enumerate(tables):
        pq.write_table(pa.table(columns), folder / f"{index}.parquet")
    return str(folder)


def read(source: DataSource, *columns: str, **options: Any) -> dict[str, list[Any]]:
    return pa.Table.from_batches(source.read(columns, **options)).to_pydict()


def test_files_are_read_in_the_types_of_all(tmp_path: Path) -> None:
    one = {"text": pa.array(["a"], pa.large_string()), "n": pa.array([1], pa.int32()), "m": [[{"role": "u"}]]}
    two = {"n": [2.5], "m": [[{"role": "u", "name": "x"}]], "text": ["b"]}
    three = {"m": [[]], "n": pa.nulls(1), "text": pa.array(["c"]).dictionary_encode()}
    source = DataSource.open(write(tmp_path, one, two, three))
    assert source.schema.names == ["text", "n", "m"]
    assert read(source, "text", "n", "m") == {
        "text": ["a", "b", "c"],
        "n": [1.0, 2.5, None],
        "m": [[{"role": "u", "name": None}], [{"role": "u", "name": "x"}], []],
    }
    assert {batch.schema for batch in source.read(["text", "n", "m"])} == {source.schema}


def test_a_column_that_a_file_lacks_is_an_error_only_when_it_is_used(tmp_path: Path) -> None:
    source = DataSource.open(write(tmp_path, {"text": ["a"]}, {"text": ["b"], "extra": [1]}))
    assert read(source, "text") == {"text": ["a", "b"]}
    with pytest.raises(DataError, match="no column 'extra'") as error:
        read(source, "extra")
    assert error.value.where == f"{tmp_path}/0.parquet"
    with pytest.raises(DataError, match="no column 'extra'"):
        next(source.read_group(source.groups()[1], ["text", "extra"]))


def test_an_optional_column_is_null_where_it_is_missing(tmp_path: Path) -> None:
    source = DataSource.open(write(tmp_path, {"text": ["a"]}, {"text": ["b"], "extra": [1]}))
    assert read(source, "extra", "text", optional=["extra"]) == {"extra": [None, 1], "text": ["a", "b"]}
    assert read(source, "extra", optional=["extra"]) == {"extra": [None, 1]}


def test_a_column_of_two_types_is_an_error_only_when_it_is_used(tmp_path: Path) -> None:
    source = DataSource.open(write(tmp_path, {"text": ["a"], "label": [1]}, {"text": ["b"], "label": ["good"]}))
    assert read(source, "text") == {"text": ["a", "b"]}
    with pytest.raises(DataError, match=f"'label' is string here, but int64 in {tmp_path}/0.parquet") as error:
        read(source, "label", optional=["label"])
    assert error.value.where == f"{tmp_path}/1.parquet"


def test_a_sample_has_all_columns_with_null_where_files_disagree(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": ["a"], "label": [1]}, {"text": ["b"], "label": ["good"], "extra": [2.5]})
    assert DataSource.open(path).sample(10).to_pydict() == {
        "text": ["a", "b"],
        "label": [1, None],
        "extra": [None, 2.5],
    }


NANO = pa.timestamp("ns")
LOSSY = [
    (pa.array([2**53 + 1]), pa.array([0.5])),
    (pa.array([-1]), pa.array([2**64 - 1], pa.uint64())),
    (pa.array([datetime.date(9999, 12, 31)]), pa.array([1], NANO)),
    (pa.array([[2**53 + 1]]), pa.array([[0.5]])),
    (pa.array([{"n": 2**53 + 1}]), pa.array([{"n": 0.5}])),
]


@pytest.mark.parametrize(("one", "other"), LOSSY, ids=lambda values: str(values.type))
@pytest.mark.parametrize("is_first", [True, False])
def test_values_that_no_common_type_holds_are_an_error_only_when_used(
    tmp_path: Path, one: pa.Array, other: pa.Array, is_first: bool
) -> None:
    tables = [{"text": ["a"], "id": one}, {"text": ["b"], "id": other}]
    source = DataSource.open(write(tmp_path, *(tables if is_first else tables[::-1])))
    assert sorted(read(source, "text")["text"]) == ["a", "b"]
    sample = source.sample(10)
    assert sample.num_rows == 2
    assert sample["id"].null_count == 1
    with pytest.raises(DataError, match="would not survive the change") as error:
        read(source, "id")
    assert str(error.value.where).startswith(str(tmp_path))
    assert "download" not in str(error.value)


def test_structs_with_nanoseconds_take_the_fields_of_both(tmp_path: Path) -> None:
    one = pa.array([{"at": 1}], pa.struct([("at", NANO)]))
    other = pa.array([{"by": "me", "at": 2}], pa.struct([("by", pa.string()), ("at", NANO)]))
    source = DataSource.open(write(tmp_path, {"m": one}, {"m": other}))
    both = pa.Table.from_batches(source.read(["m"]))["m"].combine_chunks()
    assert both.field("by").to_pylist() == [None, "me"]
    assert both.field("at").cast(pa.int64()).to_pylist() == [1, 2]


def test_files_without_rows_have_no_say_in_the_schema(tmp_path: Path) -> None:
    source = DataSource.open(write(tmp_path, {"other": pa.array([], pa.string())}, {"text": ["b"]}))
    assert source.schema.names == ["text"]
    assert read(source, "text") == {"text": ["b"]}
    assert [(group.file.name, group.first_row) for group in source.groups()] == [("1.parquet", 0)]


def test_the_order_of_files_changes_no_type(tmp_path: Path) -> None:
    tables: list[dict[str, Any]] = [{"n": [1]}, {"n": [2.5]}, {"n": pa.nulls(1)}]
    types = set()
    for number, order in enumerate(itertools.permutations(tables)):
        (tmp_path / str(number)).mkdir()
        types.add(DataSource.open(write(tmp_path / str(number), *order)).schema.field("n").type)
    assert types == {pa.float64()}
