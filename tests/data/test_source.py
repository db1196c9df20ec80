"""DataSource: the same rows from every format, streamed by column, with messages that name file and row."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.source import READ_ROWS, DataSource, values_of
from entrenar_core.errors import DataError

ROWS = [{"text": f"text {i}", "n": i, "score": i / 8, "flag": i % 3 == 0} for i in range(2500)]
TABLE = pa.Table.from_pylist(ROWS)


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=700)


def write_arrow(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=600)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=600)


def write_feather(path: Path, table: pa.Table) -> None:
    pyarrow.feather.write_feather(table, str(path))


def json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()


def write_json_lines(path: Path, table: pa.Table) -> None:
    path.write_bytes(json_lines(table))


def write_json_array(path: Path, table: pa.Table) -> None:
    path.write_text(json.dumps(table.to_pylist(), indent=2), encoding="utf-8")


def write_gzip(path: Path, table: pa.Table) -> None:
    path.write_bytes(gzip.compress(json_lines(table)))


def write_zstd(path: Path, table: pa.Table) -> None:
    with pa.output_stream(str(path)) as file:
        file.write(json_lines(table))


def write_csv(path: Path, table: pa.Table) -> None:
    pyarrow.csv.write_csv(table, path)


def write_tsv(path: Path, table: pa.Table) -> None:
    pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter="\t"))


FORMATS: dict[str, Callable[[Path, pa.Table], None]] = {
    "a.parquet": write_parquet,
    "a.arrow": write_arrow,
    "stream.arrow": write_stream,
    "a.feather": write_feather,
    "a.jsonl": write_json_lines,
    "a.ndjson": write_json_lines,
    "lines.json": write_json_lines,
    "array.json": write_json_array,
    "a.jsonl.gz": write_gzip,
    "a.jsonl.zst": write_zstd,
    "a.csv": write_csv,
    "A.CSV": write_csv,
    "a.tsv": write_tsv,
}


@pytest.fixture(params=FORMATS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DataSource:
    """TABLE in each format."""
    FORMATS[request.param](tmp_path / request.param, TABLE)
    return DataSource.open(str(tmp_path / request.param))


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def rows_of(source: DataSource, *columns: str) -> list[dict[str, Any]]:
    return [row for batch in source.read(columns) for row in batch.to_pylist()]


def test_every_format_gives_the_same_rows(source: DataSource) -> None:
    assert source.n_rows == len(ROWS)
    assert source.schema.names == TABLE.schema.names
    assert [field.type for field in source.schema] == [field.type for field in TABLE.schema]
    assert rows_of(source, *TABLE.schema.names) == ROWS


def test_batches_are_small_and_follow_the_columns_asked_for(source: DataSource) -> None:
    batches = list(source.read(["score", "text"]))
    assert all(batch.schema.names == ["score", "text"] for batch in batches)
    assert max(batch.num_rows for batch in batches) <= READ_ROWS


def test_groups_tile_the_rows(source: DataSource) -> None:
    groups = source.groups()
    assert [group.first_row for group in groups] == [sum(g.n_rows for g in groups[:i]) for i in range(len(groups))]
    rows = [row for group in groups for batch in source.read_group(group, ["n"]) for row in batch.column(0).to_pylist()]
    assert rows == list(range(len(ROWS)))


@pytest.mark.parametrize("skip", [0, 1, 77, 1024, 1500, 10_000])
def test_a_group_can_be_read_from_any_row_on(source: DataSource, skip: int) -> None:
    for group in source.groups():
        rows = [value for batch in source.read_group(group, ["n"], skip_rows=skip) for value in batch["n"].to_pylist()]
        assert rows == list(range(group.first_row, group.first_row + group.n_rows))[skip:]


def test_a_closed_reader_closes_the_file(source: DataSource) -> None:
    def is_open() -> bool:
        handles = [Path(f"/proc/self/fd/{name.name}") for name in Path("/proc/self/fd").iterdir()]
        return any(handle.resolve() == source.files[0].resolve() for handle in handles if handle.exists())

    reader = source.read_group(source.groups()[0], ["text"])
    next(reader)
    reader.close()  # type: ignore[attr-defined]
    assert not is_open()


def test_a_sample_is_spread_over_the_source_and_the_same_each_time(source: DataSource) -> None:
    sample = source.sample(100)
    numbers = sample["n"].to_pylist()
    assert sample.schema.names == TABLE.schema.names
    assert len(numbers) == 100
    assert numbers == sorted(set(numbers))
    assert all(
        sum(500 * fifth <= n < 500 * (fifth + 1) for n in numbers) == pytest.approx(20, abs=2) for fifth in range(5)
    )
    assert source.sample(100) == sample
    assert source.sample(10**6).to_pylist() == ROWS


def test_large_rows_make_a_sample_shorter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["x" * 10_000] * 2000})
    assert DataSource.open(str(path)).sample(2000, max_bytes=1 << 20).nbytes < 12 << 20


def test_a_row_is_located_in_its_file_and_counted_from_one(tmp_path: Path) -> None:
    for name, size in (("part-1.parquet", 3), ("part-2.parquet", 5), ("part-10.parquet", 4)):
        write(tmp_path / name, {"text": ["x"] * size}, row_group_size=2)
    source = DataSource.open(str(tmp_path))
    assert source.locate(0) == f"{tmp_path}/part-1.parquet, row 1"
    assert source.locate(2) == f"{tmp_path}/part-1.parquet, row 3"
    assert source.locate(3) == f"{tmp_path}/part-2.parquet, row 1"
    assert source.locate(11) == f"{tmp_path}/part-10.parquet, row 4"


def test_size_is_what_the_files_take_on_disk(source: DataSource) -> None:
    assert source.n_bytes == source.files[0].stat().st_size


def test_the_fingerprint_is_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, "ab"), (two, "xy")):
        folder.mkdir()
        for index, name in enumerate(names):
            (folder / f"{name}.jsonl").write_text(f'{{"text": "{index}"}}\n')
    expected = hashlib.sha256()
    for index in range(2):
        expected.update(hashlib.sha256(f'{{"text": "{index}"}}\n'.encode()).digest())
    assert DataSource.open(str(one)).fingerprint() == DataSource.open(str(two)).fingerprint() == expected.hexdigest()
    (one / "a.jsonl").rename(one / "c.jsonl")
    assert DataSource.open(str(one)).fingerprint() != expected.hexdigest()


def test_a_column_that_is_not_there_gets_a_suggestion_and_a_list(tmp_path: Path) -> None:
    source = DataSource.open(str(write(tmp_path / "a.parquet", {"Response": ["x"], "n": [1]})))
    with pytest.raises(DataError, match="no column 'response'") as error:
        source.require(["response"])
    assert error.value.hint == "did you mean 'Response'? columns: Response (string), n (int64)"


def test_a_column_name_may_contain_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"chat.text": ["x"], "chat": [{"text": "no"}]})
    assert rows_of(DataSource.open(str(path)), "chat.text") == [{"chat.text": "x"}]


def test_chat_comes_as_lists_and_dicts(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    source = DataSource.open(str(write(tmp_path / "a.parquet", {"messages": [messages, None]})))
    [batch] = source.read(["messages"])
    assert values_of(batch, "messages", 0, source) == [messages, None]


def test_text_that_is_not_utf8_names_file_row_and_column(tmp_path: Path) -> None:
    raw = pa.array([b"fine"] * 1500 + [b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(1501, raw.buffers()[1], raw.buffers()[2])
    write(tmp_path / "1.parquet", {"text": ["x"] * 10})
    write(tmp_path / "2.parquet", {"text": text})
    source, first_row = DataSource.open(str(tmp_path)), 0
    with pytest.raises(DataError, match="UTF-8") as error:
        for batch in source.read(["text"]):
            values_of(batch, "text", first_row, source)
            first_row += batch.num_rows
    assert error.value.where == f"{tmp_path}/2.parquet, row 1501, column text"


def test_rows_of_a_stream_take_memory_of_pages_and_not_of_row_groups(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [rng.randbytes(300).hex() for _ in range(60_000)]  # 36 MB that do not compress into a dictionary
    path = write(tmp_path / "a.parquet", {"text": texts, "n": range(60_000)}, compression="none", row_group_size=60_000)
    del texts
    source = DataSource.open(str(path))
    [group] = source.groups()
    before, peak = pa.total_allocated_bytes(), 0
    for batch in source.read_group(group, ["text"]):
        peak = max(peak, pa.total_allocated_bytes() - before)
        del batch
    assert path.stat().st_size > 30_000_000
    assert peak < 8_000_000


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
            source = DataSource.open(str(path))
            for batch in source.read(source.schema.names[:1]):
                values_of(batch, source.schema.names[0], 0, source)
            outcomes.add("read")
        except DataError as error:
            assert str(path) in str(error.where)
            outcomes.add("refused")
    assert "refused" in outcomes


VALUES = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.property
@given(rows=st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), min_size=1, max_size=30))
def test_json_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "b.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8", newline="")
    assert rows_of(DataSource.open(str(folder / "a.jsonl")), "a", "b") == rows
    assert rows_of(DataSource.open(str(folder / "b.json")), "a", "b") == rows
