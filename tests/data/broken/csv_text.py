"""CSV that is broken."""

from __future__ import annotations

from pathlib import Path

from tests.data.broken.corpus import case, raw, text


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


@case
def csv_without_a_header(folder: Path) -> Path:
    return text(folder / "train.csv", "a fine film,1\na dull film,0\n")


@case
def csv_of_sentences_without_a_header(folder: Path) -> Path:
    return text(folder / "train.csv", "the plot is thin but the actors save the day,good\nno,bad\n")
