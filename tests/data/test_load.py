"""The one door: from a file to examples, with everything said that was guessed, cut or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.config.data import Data
from entrenar_core.data.cache import TokenCache
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.examples import Examples
from entrenar_core.data.load import load_data
from entrenar_core.data.opening import open_sources
from entrenar_core.errors import DataError
from entrenar_core.events import Event, Notice, Progress

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer


class Recorder:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def notices(self, level: str) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice) and event.level == level]


def load(
    path: Path,
    tokenizer: Tokenizer,
    *,
    seq_len: int = 128,
    reporter: Recorder | None = None,
    cache: TokenCache | None = None,
    **data: Any,
) -> Examples:
    """The examples of one file, as the stage loads them."""
    section = Data(train=str(path), **data)
    fmt = ExampleFormat(seq_len, separator=section.separator, overlong=section.overlong)
    sources = open_sources(section, section.train)
    return load_data(sources, Encoding(tokenizer, fmt), cache, "tokenizer", reporter or Recorder()).examples


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_progress_counts_rows_up_to_all_of_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", text=["the fox"] * 2500)
    reporter = Recorder()
    load(path, tokenizer, reporter=reporter)
    progress = [event for event in reporter.events if isinstance(event, Progress)]
    assert len(progress) > 1
    assert progress[-1] == Progress("tokenize a.parquet", 2500, 2500)


def test_refused_rows_are_a_warning_with_reasons(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", text=["the fox", None, "", ""])
    reporter = Recorder()
    load(path, tokenizer, reporter=reporter)
    assert reporter.notices("warning") == [f"{path}: 3 of 4 rows refused: 1 null, 2 empty"]


def test_cut_rows_are_a_warning_and_split_rows_a_remark(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", text=["the quick brown fox jumps over the lazy dog"])
    cut, split = Recorder(), Recorder()
    load(path, tokenizer, seq_len=4, overlong="truncate", reporter=cut)
    load(path, tokenizer, seq_len=4, overlong="split", reporter=split)
    assert "rows longer than seq_len 4: 1 cut" in cut.notices("warning")[0]
    assert split.notices("warning") == []
    assert any("seq_len 4: 1 split into windows" in message for message in split.notices("info"))


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", text=["the quick brown fox", None, " "])
    with pytest.raises(DataError, match=r"all 3 rows were refused \(1 longer than seq_len, 1 null, 1 empty\)") as error:
        load(path, tokenizer, seq_len=2, overlong="drop")
    assert error.value.where == str(path)


@pytest.mark.parametrize(("overlong", "remedy"), [("drop", "data.overlong"), ("truncate", "data.seq_len")])
def test_a_window_that_is_too_small_for_everything_suggests_the_key(
    tmp_path: Path, tokenizer: Tokenizer, overlong: str, remedy: str
) -> None:
    path = write(tmp_path / "a.parquet", prompt=["the quick brown fox jumps"], completion=["says"])
    with pytest.raises(DataError) as error:
        load(path, tokenizer, seq_len=2, overlong=overlong)
    assert remedy in str(error.value.hint)


def test_a_missing_column_names_the_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.parquet", text=["the fox"])
    with pytest.raises(DataError, match="there is no column 'txt'") as error:
        load(path, tokenizer, text="txt")
    assert error.value.where == str(path)


@pytest.mark.integration
def test_gsm8k_loads_whole_with_the_question_masked(shared_data: Path, tokenizer: Tokenizer) -> None:
    path = shared_data / "gsm8k" / "val.parquet"
    reporter = Recorder()
    examples = load(path, tokenizer, seq_len=4096, reporter=reporter)
    rows = pq.read_table(path).to_pylist()
    assert len(examples) == len(rows) == 473
    assert reporter.notices("warning") == []
    for index, row in enumerate(rows):
        example = examples[index]
        assert tokenizer.decode(example.tokens[example.supervised].tolist()) == row["answer"]
        assert tokenizer.decode(example.tokens[~example.supervised].tolist()) == row["question"] + "\n"
