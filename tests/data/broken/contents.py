"""Files that are not what their names say."""

from __future__ import annotations

import gzip
import sqlite3
import tarfile
import zipfile
from pathlib import Path

from tests.data.broken.corpus import case, parquet, raw, text


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
