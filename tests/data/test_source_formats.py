"""What is particular to a format: types of CSV cells, keys that come late in JSON, Arrow's spellings of text."""

from __future__ import annotations

import datetime
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.formats import csv, json_blocks
from entrenar_core.data.source import DataSource
from entrenar_core.errors import DataError


def columns_of(path: Path) -> dict[str, list[Any]]:
    source = DataSource.open(str(path))
    return pa.Table.from_batches(source.read(source.schema.names)).to_pydict()


def column_of_csv(tmp_path: Path, *cells: str) -> tuple[pa.DataType, list[Any]]:
    """Type and values of a column of cells, beside one that keeps blank lines from being skipped."""
    path = tmp_path / "a.csv"
    path.write_text("cell,row\n" + "".join(f"{cell},{index}\n" for index, cell in enumerate(cells)))
    return DataSource.open(str(path)).schema.field("cell").type, columns_of(path)["cell"]


@pytest.mark.parametrize(
    ("cells", "type_", "values"),
    [
        (["1", "-2", ""], pa.int64(), [1, -2, None]),
        (["1", "2.5", "1e-4"], pa.float64(), [1.0, 2.5, 1e-4]),
        (["1", "NA", " 3 "], pa.int64(), [1, None, 3]),
        (["0", "0.5", "-0.25"], pa.float64(), [0.0, 0.5, -0.25]),
        (["true", "False", "TRUE"], pa.bool_(), [True, False, True]),
        (["2024-01-02", "2024-02-03"], pa.date32(), [datetime.date(2024, 1, 2), datetime.date(2024, 2, 3)]),
        (
            ["2024-01-02", "2024-01-02 10:30:00"],
            pa.timestamp("us"),
            [datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 2, 10, 30)],
        ),
        (["007", "123"], pa.string(), ["007", "123"]),
        (["0x10"], pa.string(), ["0x10"]),
        (["1", "x"], pa.string(), ["1", "x"]),
        (["true", "1"], pa.string(), ["true", "1"]),
        (["2024-01-02", "1"], pa.string(), ["2024-01-02", "1"]),
        (["NA", "none", "null"], pa.string(), ["NA", "none", "null"]),
        (["yes", "NA"], pa.string(), ["yes", "NA"]),
        ([" a "], pa.string(), [" a "]),
        (["a", "", '""'], pa.string(), ["a", None, ""]),
        (["", ""], pa.null(), [None, None]),
        (['"1"', '"2"'], pa.int64(), [1, 2]),
        (['"two\nlines"', '"a ""quoted"" word"'], pa.string(), ["two\nlines", 'a "quoted" word']),
        (['5" disk'], pa.string(), ['5" disk']),
    ],
)
def test_cells_decide_the_type_of_a_csv_column(
    tmp_path: Path, cells: list[str], type_: pa.DataType, values: list[Any]
) -> None:
    assert column_of_csv(tmp_path, *cells) == (type_, values)


@pytest.mark.parametrize(
    ("late", "type_"), [("2.5", pa.float64()), ("word", pa.string()), ("007", pa.string()), ("9", pa.int64())]
)
def test_a_cell_at_the_end_of_a_large_csv_counts(tmp_path: Path, late: str, type_: pa.DataType) -> None:
    padding = "x" * 100
    lines = [f"{index},{padding}" for index in range(30_000)]  # 3 MB: more than a block
    (tmp_path / "a.csv").write_text("\n".join(["n,text", *lines, f"{late},y"]))
    assert DataSource.open(str(tmp_path / "a.csv")).schema.field("n").type == type_
    assert str(columns_of(tmp_path / "a.csv")["n"][-1]) == late


@pytest.mark.property
@given(cells=st.permutations(["1", "2.5", "", "NA", "-3"]))
def test_the_order_of_cells_does_not_change_the_type(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    assert column_of_csv(tmp_path_factory.mktemp("csv"), *cells)[0] == pa.float64()


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_a_csv_is_cut_at_the_delimiter_of_its_header(tmp_path: Path, sign: str) -> None:
    (tmp_path / "a.csv").write_text(f"text{sign}label\nhello{sign}good\n")
    assert columns_of(tmp_path / "a.csv") == {"text": ["hello"], "label": ["good"]}


@pytest.mark.parametrize(
    ("line", "like_data"),
    [
        ("a fine film,1", "1"),
        ("0.5,a fine film", "0.5"),
        ("-1e-3;x", "-1e-3"),
        (
            "this is a whole sentence that somebody has written,good",
            "this is a whole sentence that somebody has written",
        ),
    ],
)
def test_a_csv_without_a_header_is_refused_before_its_first_row_is_lost(
    tmp_path: Path, line: str, like_data: str
) -> None:
    (tmp_path / "a.csv").write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match="the first line has to name the columns") as error:
        DataSource.open(str(tmp_path / "a.csv"))
    assert repr(like_data) in error.value.message
    assert error.value.where == f"{tmp_path}/a.csv, line 1"
    assert "add a line above it" in str(error.value.hint)


@pytest.mark.parametrize(
    "header", ["country,2019,2020", "0,1,2", ",0,1", "text,top 10,col_1", "a,nan,inf", "1st,v2.0,x"]
)
def test_names_of_columns_may_have_digits_and_be_years_or_places(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\nx,y,z\n")
    assert DataSource.open(str(tmp_path / "a.csv")).schema.names == header.split(",")


def test_a_csv_of_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nhello\nworld\n")
    assert columns_of(tmp_path / "a.csv") == {"text": ["hello", "world"]}


def test_a_mark_of_utf8_at_the_beginning_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufefftext\nhello\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "hello"}\n', encoding="utf-8")
    (tmp_path / "b.json").write_text('\ufeff [{"text": "hello"}]\n', encoding="utf-8")
    for name in ("a.csv", "a.jsonl", "b.json"):
        assert columns_of(tmp_path / name) == {"text": ["hello"]}


def test_windows_line_ends_are_no_part_of_values(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,n\r\nhello,1\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "hello", "n": 1}\r\n')
    (tmp_path / "b.json").write_bytes(b'[\r\n{"text": "hello",\r\n "n": 1}\r\n]')
    for name in ("a.csv", "a.jsonl", "b.json"):
        assert columns_of(tmp_path / name) == {"text": ["hello"], "n": [1]}


def test_a_csv_row_may_be_longer_than_a_block(tmp_path: Path) -> None:
    long = "word " * (csv.BLOCK_BYTES[0] // 4)
    (tmp_path / "a.csv").write_text(f"text,n\nshort,1\n{long},2\n")
    assert columns_of(tmp_path / "a.csv") == {"text": ["short", long], "n": [1, 2]}


@pytest.mark.parametrize("end", ['1,""', '1,"a"\n', '1,"a"', "1,a\n\n", '1,"a\nb"\n', '"x",', 'y,"q""q"', '1,5"'])
def test_a_quote_that_is_closed_is_no_mistake(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.csv").write_text(f"n,text\n1,z\n{end}")
    assert DataSource.open(str(tmp_path / "a.csv")).n_rows == 2


@pytest.mark.parametrize("end", ['1,"', '1,"a', '1,"a\n', '1,"a\n2,b\n', '1,"a ""b'])
def test_a_quote_that_stays_open_is_a_mistake_on_its_line(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.csv").write_text(f"n,text\n1,z\n{end}")
    with pytest.raises(DataError, match="never closed") as error:
        DataSource.open(str(tmp_path / "a.csv"))
    assert str(error.value.where).endswith("a.csv, line 3")


def test_a_json_string_stays_a_string(tmp_path: Path) -> None:
    rows = [{"when": "2024-01-01", "code": "007", "list": ["2024-01-01 10:00:00"], "in": {"it": "2024-01-01"}}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    assert columns_of(tmp_path / "a.jsonl") == {key: [value] for key, value in rows[0].items()}


def test_keys_and_types_that_come_late_in_json_are_part_of_the_schema(tmp_path: Path) -> None:
    early = {"n": 1, "messages": [{"role": "user", "content": "x" * 200}]}
    late = {
        "n": 2.5,
        "messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]}],
        "tools": "[]",
    }
    count = json_blocks.BLOCK_BYTES // 200
    (tmp_path / "a.jsonl").write_text("\n".join([*[json.dumps(early)] * count, json.dumps(late)]))
    (tmp_path / "b.json").write_text(json.dumps([early] * count + [late]))
    for name in ("a.jsonl", "b.json"):
        source = DataSource.open(str(tmp_path / name))
        assert source.schema.field("n").type == pa.float64()
        *_, last = source.read(["n", "messages", "tools"])
        row = last.to_pylist()[-1]
        assert (row["n"], row["tools"]) == (2.5, "[]")
        assert row["messages"][0]["tool_calls"] == [{"name": "f", "arguments": "{}"}]
        assert next(iter(source.read(["messages"]))).to_pylist()[0]["messages"][0]["tool_calls"] is None


def test_json_lines_are_cut_into_groups_that_can_be_read_alone(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [{"n": index, "text": "é" * rng.randrange(3000)} for index in range(4000)]
    lines = [json.dumps(row, ensure_ascii=False) + rng.choice(["\n", "\n\n", "\r\n"]) for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines), encoding="utf-8", newline="")
    source = DataSource.open(str(tmp_path / "a.jsonl"))
    groups = source.groups()
    assert len(groups) > 2
    for group in reversed(groups):
        read = [row for batch in source.read_group(group, ["text", "n"]) for row in batch.to_pylist()]
        assert read == rows[group.first_row : group.first_row + group.n_rows]


def test_an_array_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": index, "text": '\\ " \n é' * (index % 50)} for index in range(500)]
    for size in (64, 1000, 1 << 20):
        monkeypatch.setattr(json_blocks, "BLOCK_BYTES", size)
        for indent in (None, 2):
            (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
            source = DataSource.open(str(tmp_path / "a.json"))
            assert [row for batch in source.read(["n", "text"]) for row in batch.to_pylist()] == rows


@pytest.mark.parametrize(("suffix", "codec"), [("gz", "gzip"), ("zst", "zstd"), ("bz2", "bz2"), ("GZ", "gzip")])
def test_text_may_be_compressed(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    rows = [{"text": f"text {index}"} for index in range(5000)]
    plain = "\n".join(map(json.dumps, rows)).encode()
    with pa.CompressedOutputStream(str(path), codec) as file:
        file.write(plain)
    assert columns_of(path) == {"text": [row["text"] for row in rows]}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="the compressed file is truncated"):
        DataSource.open(str(path))
    path.write_bytes(plain)
    with pytest.raises(DataError, match=f"not compressed with {suffix}"):
        DataSource.open(str(path))


def test_a_message_shows_no_signs_that_a_terminal_acts_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\x1b[31mred\x07\n')
    with pytest.raises(DataError, match="line 2") as error:
        DataSource.open(str(tmp_path / "a.jsonl"))
    assert error.value.message.isprintable()


@pytest.mark.parametrize("number", ["9223372036854775807", "123456789012345678901234567890", "1e5", "-0.0"])
def test_every_json_number_is_read(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"n": {number}}}\n')
    assert columns_of(tmp_path / "a.jsonl") == {"n": [pytest.approx(float(number))]}


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_every_arrow_spelling_of_text_is_text(tmp_path: Path, type_: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["x", None, "y"]).cast(type_)}), tmp_path / "a.parquet")
    assert columns_of(tmp_path / "a.parquet") == {"text": ["x", None, "y"]}


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_arrow_files_with_dictionaries_are_read(tmp_path: Path, type_: pa.DataType) -> None:
    table = pa.table({"n": [1, 2, 3], "text": pa.array(["x", None, "y"]).cast(type_)})
    for name, new in (("a.arrow", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
        assert columns_of(tmp_path / name) == {"n": [1, 2, 3], "text": ["x", None, "y"]}


VIEWS = [
    (pa.array(["x", None, "y"], pa.string_view()), pa.string()),
    (pa.array([b"x", None, b"y"], pa.binary_view()), pa.binary()),
    (pa.array([["x"], None, ["y", "z"]], pa.list_view(pa.string_view())), pa.list_(pa.string())),
    (pa.array([["x"], None, []], pa.large_list(pa.string_view())), pa.large_list(pa.string())),
    (
        pa.array([[{"role": "x"}], None, []], pa.list_(pa.struct([("role", pa.string_view())]))),
        pa.list_(pa.struct([("role", pa.string())])),
    ),
    (pa.DictionaryArray.from_arrays([0, None, 1], pa.array(["x", "y"], pa.string_view())), pa.string()),
    (pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array(["x", "y"])), pa.string()),
]


@pytest.mark.parametrize(("values", "type_"), VIEWS, ids=lambda part: str(getattr(part, "type", "")))
def test_views_of_polars_are_read_as_plain_types(tmp_path: Path, values: pa.Array, type_: pa.DataType) -> None:
    table = pa.table({"cell": values})
    for name, new in (("a.arrow", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
        source = DataSource.open(str(tmp_path / name))
        assert source.schema.field("cell").type == type_
        assert columns_of(tmp_path / name) == table.to_pydict()
        assert source.sample(2)["cell"].to_pylist() == values.to_pylist()[:2]


@pytest.mark.property
def test_a_damaged_arrow_file_gives_values_or_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table(
        {"text": [f"some text {i}" for i in range(300)], "m": [[{"role": "u", "n": i}] for i in range(300)]}
    )
    for new in (pa.ipc.new_file, pa.ipc.new_stream):
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
        intact = path.read_bytes()
        outcomes = set()
        for seed in range(80):
            damage = random.Random(seed)
            data = bytearray(intact)
            for _ in range(3):
                data[damage.randrange(len(data))] = damage.randrange(256)
            path.write_bytes(bytes(data))
            try:
                source = DataSource.open(str(path))
                for batch in source.read(source.schema.names):
                    assert batch.num_rows >= 0
                outcomes.add("read")
            except DataError as error:
                assert str(path) in str(error)
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}


@pytest.mark.property
@given(text=st.text(alphabet='{}[]",:\\ntru1e-. \n', max_size=60))
def test_any_json_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(text)
    try:
        assert DataSource.open(str(path)).n_rows > 0
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.property
@given(text=st.text(alphabet='ab",;\t\r\n 01-', max_size=60))
def test_any_csv_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(text)
    try:
        columns_of(path)
    except DataError as error:
        assert str(path) in str(error)
