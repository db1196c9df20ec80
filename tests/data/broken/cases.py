"""Every way in which data were found broken, each a function that writes it into a folder and returns the path to open.

A case may ask for columns; else all of them are read.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Case = Callable[[Path], Path | str]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def parquet(path: Path, columns: dict[str, Any] | None = None, **options: Any) -> Path:
    pq.write_table(pa.table(columns or {"text": [f"text {i}" for i in range(2000)]}), path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged(path: Path, start: int, size: int) -> Path:
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(value ^ 0x5A for value in data[start : start + size])
    return raw(path, bytes(data))


# Paths


@case
def missing_file(folder: Path) -> Path:
    parquet(folder / "train.parquet")
    return folder / "trian.parquet"


@case
def missing_file_beside_others(folder: Path) -> Path:
    parquet(folder / "a.parquet")
    parquet(folder / "b.parquet")
    return folder / "instructions-and-answers.jsonl"


@case
def missing_folder(folder: Path) -> Path:
    return folder / "nowhere" / "train.parquet"


@case
def empty_path(folder: Path) -> str:
    del folder
    return ""


@case
def a_web_address(folder: Path) -> str:
    del folder
    return "https://example.org/train.parquet"


@case
def folder_without_data(folder: Path) -> Path:
    text(folder / "README.md", "# My data")
    text(folder / "notes.txt", "one")
    return folder


@case
def empty_folder(folder: Path) -> Path:
    return folder


@case
def folder_of_several_formats(folder: Path) -> Path:
    parquet(folder / "a.parquet")
    text(folder / "b.jsonl", '{"text": "x"}\n')
    text(folder / "c.jsonl", '{"text": "x"}\n')
    return folder


@case
def folder_of_several_splits(folder: Path) -> Path:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"):
        parquet(folder / f"{name}.parquet")
    return folder


@case
def folders_of_splits(folder: Path) -> Path:
    for name in ("train", "test"):
        (folder / name).mkdir()
        parquet(folder / name / "part-0.parquet")
    return folder


@case
def saved_dataset_dict(folder: Path) -> Path:
    text(folder / "dataset_dict.json", '{"splits": ["train", "test"]}')
    for name in ("train", "test"):
        (folder / name).mkdir()
        pyarrow.feather.write_feather(pa.table({"text": ["x"]}), str(folder / name / "data-00000-of-00001.arrow"))
    return folder


@case
def glob_without_match(folder: Path) -> Path:
    (folder / "part").mkdir()
    parquet(folder / "part" / "a.parquet")
    return folder / "*.parquet"


@case
def glob_of_other_files(folder: Path) -> Path:
    text(folder / "a.txt", "x")
    return folder / "*.txt"


@case
def plain_text(folder: Path) -> Path:
    return text(folder / "book.txt", "Call me Ishmael.\n")


@case
def unknown_ending(folder: Path) -> Path:
    return text(folder / "train.dat", "x")


@case
def no_ending(folder: Path) -> Path:
    return parquet(folder / "train")


@case
def a_model(folder: Path) -> Path:
    return raw(folder / "base.gguf", b"GGUF\3\0\0\0")


@case
def compressed_parquet(folder: Path) -> Path:
    return raw(folder / "train.parquet.gz", gzip.compress(b"x"))


# Not what the name says


@case
def empty_file(folder: Path) -> Path:
    return raw(folder / "a.parquet", b"")


@case
def git_lfs_pointer(folder: Path) -> Path:
    oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
    return text(
        folder / "train.parquet", f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12345678\n"
    )


@case
def git_lfs_pointer_for_json(folder: Path) -> Path:
    return text(folder / "train.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@case
def web_page(folder: Path) -> Path:
    return text(folder / "train.parquet", "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n")


@case
def web_page_as_csv(folder: Path) -> Path:
    return text(folder / "train.csv", "\n\n<html>\n<body>404</body></html>\n")


@case
def zip_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "train.csv", "w") as archive:
        archive.writestr("train.csv", "text\nhello\n")
    return folder / "train.csv"


@case
def excel_workbook(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "train.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return folder / "train.csv"


@case
def excel_by_name(folder: Path) -> Path:
    return raw(folder / "train.xlsx", b"PK\3\4")


@case
def sqlite_database(folder: Path) -> Path:
    with sqlite3.connect(folder / "train.parquet") as connection:
        connection.execute("create table t (text)")
    connection.close()
    return folder / "train.parquet"


@case
def pickle(folder: Path) -> Path:
    return raw(folder / "train.parquet", b"\x80\x04\x95\x10\0\0\0\0\0\0\0")


@case
def tar_archive(folder: Path) -> Path:
    inside = text(folder / "inside.jsonl", '{"text": "x"}\n')
    with tarfile.open(folder / "train.jsonl", "w") as archive:
        archive.add(inside, "inside.jsonl")
    return folder / "train.jsonl"


@case
def parquet_named_json(folder: Path) -> Path:
    return parquet(folder / "train.jsonl")


@case
def json_named_parquet(folder: Path) -> Path:
    return text(folder / "train.parquet", '{"text": "x"}\n' * 10)


@case
def csv_named_arrow(folder: Path) -> Path:
    return text(folder / "train.arrow", "text\nx\n")


@case
def gzip_named_json(folder: Path) -> Path:
    return raw(folder / "train.jsonl", gzip.compress(b'{"text": "x"}\n'))


@case
def json_named_gzip(folder: Path) -> Path:
    return text(folder / "train.jsonl.gz", '{"text": "x"}\n')


@case
def utf16_csv(folder: Path) -> Path:
    return raw(folder / "train.csv", "text,label\nhello,1\n".encode("utf-16"))


@case
def feather_version_1(folder: Path) -> Path:
    return raw(folder / "train.feather", b"FEA1" + bytes(60) + b"FEA1")


# Broken files


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
    parquet(folder / "a.parquet", {"text": ["x"], "label": [1]})
    parquet(folder / "b.parquet", {"text": ["x"]})
    return folder


@case
def file_with_another_type(folder: Path) -> Path:
    parquet(folder / "a.parquet", {"text": ["x"], "label": [1]})
    parquet(folder / "b.parquet", {"text": ["x"], "label": ["good"]})
    return folder


# JSON


@case
def json_broken_line(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{"text": "c"\n{"text": "d"}\n')


@case
def json_cut_line(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c and th')


@case
def json_commas_between_lines(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"},\n{"text": "b"},\n')


@case
def json_single_quotes(folder: Path) -> Path:
    return text(folder / "train.jsonl", "{'text': 'a'}\n{'text': 'b'}\n")


@case
def json_line_of_text(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n"just a text"\n')


@case
def json_array_of_texts(folder: Path) -> Path:
    return text(folder / "train.json", '["one text", "another"]')


@case
def json_number_and_string(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"score": null}\n{"score": 3}\n{"score": 4}\n{"score": "high"}\n')


@case
def json_number_and_string_far_apart(folder: Path) -> Path:
    lines = [json.dumps({"text": "x" * 100, "score": i}) for i in range(50_000)]
    return text(folder / "train.jsonl", "\n".join([*lines, json.dumps({"text": "x", "score": "high"})]))


@case
def json_content_of_two_types(folder: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    ]
    return text(folder / "train.jsonl", "\n".join(map(json.dumps, rows)))


@case
def json_key_twice(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n')


@case
def json_not_utf8(folder: Path) -> Path:
    return raw(folder / "train.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n')


@case
def json_half_a_surrogate(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n')


@case
def json_one_object(folder: Path) -> Path:
    return text(folder / "train.json", json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2))


@case
def json_objects_over_several_lines(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n')


@case
def json_array_cut(folder: Path) -> Path:
    return text(folder / "train.json", json.dumps([{"text": "a"}, {"text": "b"}], indent=2)[:-12])


@case
def json_array_without_comma(folder: Path) -> Path:
    return text(folder / "train.json", '[\n  {"text": "a"}\n  {"text": "b"}\n]\n')


@case
def json_array_with_comma_at_the_end(folder: Path) -> Path:
    return text(folder / "train.json", '[\n  {"text": "a"},\n]\n')


@case
def json_blank_lines_only(folder: Path) -> Path:
    return text(folder / "train.jsonl", "\n\n  \n")


@case
def json_empty_array(folder: Path) -> Path:
    return text(folder / "train.json", "[]\n")


# CSV


@case
def csv_too_many_cells(folder: Path) -> Path:
    return text(folder / "train.csv", 'text,label\n"two\nlines",good\nhello, world,bad\n')


@case
def csv_too_few_cells(folder: Path) -> Path:
    return text(folder / "train.tsv", "text\tlabel\nhello\tgood\n\nworld\n")


@case
def csv_open_quote(folder: Path) -> Path:
    return text(folder / "train.csv", 'label,text\ngood,one\nbad,"two\ngood,three\nbad,four\n')


@case
def csv_header_only(folder: Path) -> Path:
    return text(folder / "train.csv", "text,label\n")


@case
def csv_blank(folder: Path) -> Path:
    return text(folder / "train.csv", "\n\n")


@case
def csv_same_name_twice(folder: Path) -> Path:
    return text(folder / "train.csv", "good,good,1\nbad,good,2\n")


@case
def csv_windows_encoding(folder: Path) -> Path:
    return raw(folder / "train.csv", b"text,label\nfine,1\ncaf\xe9,2\n")


@case
def csv_windows_encoding_in_header(folder: Path) -> Path:
    return raw(folder / "train.csv", b"caf\xe9,label\nfine,1\n")
