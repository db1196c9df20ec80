"""Each broken data set of the corpus gets one message that says what is wrong, where, and what to do.

The messages are kept in ``broken/NAME.txt``; ``REWRITE_SNAPSHOTS=1`` writes them anew.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from entrenar_core.data.source import DataSource, values_of
from entrenar_core.errors import DataError
from tests.data.broken import CASES

MESSAGES = Path(__file__).parent / "broken"
REWRITE = os.environ.get("REWRITE_SNAPSHOTS") == "1"
NOBODY = 65534


def read_everything(path: str) -> None:
    """What training does with a source, at most."""
    source, first_row = DataSource.open(path), 0
    for batch in source.read(source.schema.names):
        for name in source.schema.names:
            values_of(batch, name, first_row, source)
        first_row += batch.num_rows


@pytest.mark.parametrize("name", CASES)
def test_the_message_is_the_one_on_record(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = str(CASES[name](folder))
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError) as raised:
        read_everything(path)
    message = str(raised.value).replace(str(folder), "data") + "\n"
    record = MESSAGES / f"{name}.txt"
    if REWRITE:
        record.write_text(message, encoding="utf-8")
    assert message == record.read_text(encoding="utf-8")
    assert sorted(folder.rglob("*")) == before


def test_every_record_has_its_case() -> None:
    assert {record.stem for record in MESSAGES.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_what_to_do_in_few_words(name: str) -> None:
    lines = (MESSAGES / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert 1 <= len(lines) <= 2
    assert all(len(line) < 330 for line in lines)
    assert not any(word in " ".join(lines) for word in ("Traceback", "0x7f", "Arrow error", "Error:"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so it steps down."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.arrow"])
def test_a_file_that_may_not_be_read_says_so(name: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / name).write_text("x")
        (folder / name).chmod(0)
        with as_nobody(), pytest.raises(DataError, match="not allowed to read") as raised:
            DataSource.open(str(folder / name))
        assert raised.value.hint == f"check its permissions: chmod u+r {folder / name}"
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read_says_so() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "inner").mkdir()
        (folder / "inner").chmod(0o700)
        folder.chmod(0o755)
        with as_nobody(), pytest.raises(DataError, match="Permission denied"):
            DataSource.open(str(folder))
    finally:
        shutil.rmtree(folder)
