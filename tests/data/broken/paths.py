"""Paths that lead to no data, or to more than one data set."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.feather

from tests.data.broken.corpus import case, parquet, raw, text


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


@case
def home_of_nobody(folder: Path) -> str:
    del folder
    return "~nobody-of-this-name/train.parquet"


@case
def pattern_below_a_folder_with_a_bracket(folder: Path) -> Path:
    (folder / "set[1]").mkdir()
    return parquet(folder / "set[1]" / "a.parquet").with_name("*.parquet")
