"""Parquet, Arrow and compressed files that are damaged, and files that do not fit together."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from tests.data.broken.corpus import case, damaged, parquet, raw


@case
def truncated_parquet(folder: Path) -> Path:
    path = parquet(folder / "train.parquet")
    return raw(path, path.read_bytes()[:-20])


@case
def damaged_page(folder: Path) -> Path:
    return damaged(parquet(folder / "train.parquet", write_page_checksum=True), 2000, 100)


@case
def damaged_footer(folder: Path) -> Path:
    path = parquet(folder / "train.parquet")
    return damaged(path, path.stat().st_size - 600, 500)


@case
def truncated_arrow(folder: Path) -> Path:
    path = folder / "train.arrow"
    pyarrow.feather.write_feather(pa.table({"text": ["hello"] * 1000}), str(path))
    return raw(path, path.read_bytes()[:-30])


@case
def truncated_arrow_stream(folder: Path) -> Path:
    table = pa.table({"text": ["hello"] * 1000})
    with pa.ipc.new_stream(str(folder / "train.arrow"), table.schema) as writer:
        writer.write_table(table)
    return raw(folder / "train.arrow", (folder / "train.arrow").read_bytes()[:-1000])


@case
def truncated_gzip(folder: Path) -> Path:
    lines = "".join(f'{{"text": "{i}"}}\n' for i in range(5000))
    return raw(folder / "train.jsonl.gz", gzip.compress(lines.encode())[:-100])


@case
def no_rows(folder: Path) -> Path:
    return parquet(folder / "train.parquet", {"text": pa.array([], pa.string())})


@case
def no_rows_in_any_file(folder: Path) -> Path:
    for name in "ab":
        parquet(folder / f"{name}.parquet", {"text": pa.array([], pa.string())})
    return folder


@case
def same_name_twice(folder: Path) -> Path:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, folder / "train.parquet")
    return folder / "train.parquet"


@case
def parquet_not_utf8(folder: Path) -> Path:
    data = pa.array([b"fine", b"also fine", b"\xff\xfe"], pa.binary())
    column = pa.StringArray.from_buffers(3, data.buffers()[1], data.buffers()[2])
    return parquet(folder / "train.parquet", {"text": column})


@case
def file_without_a_column(folder: Path) -> Path:
    parquet(folder / "a.parquet", {"text": ["x", "y"], "label": [0, 1]})
    parquet(folder / "b.parquet", {"text": ["x"]})
    return folder


@case
def file_with_another_type(folder: Path) -> Path:
    parquet(folder / "a.parquet", {"text": ["x", "y"], "label": [0, 1]})
    parquet(folder / "b.parquet", {"text": ["x"], "label": ["good"]})
    return folder


@case
def file_with_numbers_that_no_common_type_holds(folder: Path) -> Path:
    parquet(folder / "a.parquet", {"text": ["a"], "id": [0.5]})
    parquet(folder / "b.parquet", {"text": ["b"], "id": [2**53 + 1]})
    return folder
