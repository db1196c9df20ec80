"""Finding data files: a file, everything below a folder, a glob; hidden files and foreign files passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from entrenar_core.data.files import find_files
from entrenar_core.data.formats.kinds import Format, format_of
from entrenar_core.data.source import DataSource
from entrenar_core.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(path: Path | str, folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in find_files(str(path)).files]


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.parquet", Format.PARQUET),
        ("a.b.PARQUET", Format.PARQUET),
        ("a.jsonl", Format.JSON),
        ("a.ndjson", Format.JSON),
        ("a.json", Format.JSON),
        ("a.json.gz", Format.JSON),
        ("a.jsonl.zst", Format.JSON),
        ("a.csv", Format.CSV),
        ("a.csv.bz2", Format.CSV),
        ("a.tsv", Format.CSV),
        ("a.arrow", Format.ARROW),
        ("a.feather", Format.ARROW),
        ("a.parquet.gz", None),
        ("a.arrow.zst", None),
        ("a.gz", None),
        ("a.txt", None),
        ("parquet", None),
    ],
)
def test_the_name_tells_the_format(name: str, format_: Format | None) -> None:
    assert format_of(Path(name)) is format_


def test_a_folder_means_all_data_files_below_it_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "part-10.parquet", "part-2.parquet", "part-1.parquet", "more/deep/part-0.parquet")
    assert found(tmp_path, tmp_path) == [
        "more/deep/part-0.parquet",
        "part-1.parquet",
        "part-2.parquet",
        "part-10.parquet",
    ]


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "_SUCCESS", "_metadata.parquet", ".a.csv.crc", ".git/x.json", "_tmp/b.csv", "README.md")
    assert found(tmp_path, tmp_path) == ["a.csv"]


def test_a_glob_means_the_data_files_that_match(tmp_path: Path) -> None:
    touch(tmp_path, "x-1.jsonl", "x-2.jsonl", "y.jsonl", "x.txt", "sub/x-3.jsonl", "x-dir/z.jsonl")
    assert found(tmp_path / "x*", tmp_path) == ["x-1.jsonl", "x-2.jsonl"]
    assert found(tmp_path / "**" / "x-*.jsonl", tmp_path) == ["sub/x-3.jsonl", "x-1.jsonl", "x-2.jsonl"]
    assert found(tmp_path / "[y].jsonl", tmp_path) == ["y.jsonl"]


def test_a_name_with_signs_of_a_glob_is_taken_literally_when_it_exists(tmp_path: Path) -> None:
    touch(tmp_path, "data[1].csv", "data1.csv")
    assert found(tmp_path / "data[1].csv", tmp_path) == ["data[1].csv"]


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path, "a.csv", "data/b.csv")
    assert found("~/a.csv", tmp_path) == ["a.csv"]
    assert found("~/data/*.csv", tmp_path) == ["data/b.csv"]


def test_a_home_folder_of_nobody_is_an_error() -> None:
    with pytest.raises(DataError, match="home folder that ~nobody-of-this-name") as error:
        find_files("~nobody-of-this-name/a.csv")
    assert error.value.where == "~nobody-of-this-name/a.csv"
    assert "full path" in str(error.value.hint)


def test_a_file_that_links_lead_to_again_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "deep/b.csv")
    (tmp_path / "again").symlink_to(tmp_path)
    assert found(tmp_path / "**" / "*.csv", tmp_path) == ["a.csv", "deep/b.csv"]


def test_a_pattern_below_a_folder_with_a_bracket_says_how_to_write_it(tmp_path: Path) -> None:
    touch(tmp_path, "set[1]/a.csv")
    with pytest.raises(DataError, match="no file matches") as error:
        find_files(str(tmp_path / "set[1]" / "*.csv"))
    hint = str(error.value.hint)
    assert "[[] for [" in hint
    assert found(hint.rsplit(maxsplit=1)[-1], tmp_path) == ["set[1]/a.csv"]


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "data/a.csv")
    monkeypatch.chdir(tmp_path)
    assert find_files("data").files == (Path("data/a.csv"),)


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.parquet", "train-1.parquet"),
        ("trainer.parquet", "testing.parquet"),
        ("dev.parquet", "validation.parquet"),
        ("train/a.parquet", "train/test-drive.parquet"),
    ],
)
def test_files_of_one_split_are_one_data_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    assert len(find_files(str(tmp_path)).files) == 2


def test_one_split_of_several_can_be_named_by_a_glob_or_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/train-0.csv", "a/test-0.csv", "b/train/0.csv", "b/test/0.csv")
    with pytest.raises(DataError, match="several splits") as error:
        find_files(str(tmp_path / "a"))
    hint = str(error.value.hint)
    assert found(hint.rsplit(maxsplit=1)[-1], tmp_path) == ["a/train-0.csv"]
    with pytest.raises(DataError, match="several splits") as error:
        find_files(str(tmp_path / "b"))
    assert found(str(error.value.hint).split()[-1], tmp_path) == ["b/train/0.csv"]


def test_a_dataset_saved_to_disk_is_read_without_its_notes(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(pa.table({"text": ["x", "y"]}), str(tmp_path / "data-00000-of-00001.arrow"))
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text(json.dumps({"_format": None}))
    assert DataSource.open(str(tmp_path)).n_rows == 2


def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match="not a regular file"):
        find_files(str(tmp_path / "a.csv"))


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="does not exist"):
        find_files(str(tmp_path / "a.csv"))


def test_a_chain_of_links_that_never_ends_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to(tmp_path / "b.csv")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(DataError):
        find_files(str(tmp_path / "a.csv"))
