"""The one door: a file and the `data` section of the YAML in, tokenized examples out.

It opens the file, chooses the columns, streams the rows through the tokenizer, and says what it guessed, cut and
refused; a file that leaves nothing to learn is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from entrenar_core.config.data import Data
from entrenar_core.data.columns import ColumnRequest, choose_columns
from entrenar_core.data.encode import REFUSED_NO_TARGET, REFUSED_TOO_LONG, ExampleFormat, RowEncoder
from entrenar_core.data.examples import Examples, ExampleStats
from entrenar_core.data.parquet_source import ParquetSource
from entrenar_core.errors import DataError
from entrenar_core.events import Notice, Progress, Reporter, SilentReporter

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer


def load_examples(
    path: str | Path, data: Data, tokenizer: Tokenizer, *, seq_len: int, reporter: Reporter | None = None
) -> Examples:
    """Read and tokenize one file (`data.train` or `data.val`) as the `data` section says.

    Args:
        seq_len: the longest example in positions; `data.seq_len`, or what the model can do.
        reporter: hears the columns that were inferred, the progress in rows, and what was refused, cut or split.

    Raises:
        DataError: the file, its columns or its rows cannot be used, or no row has anything to learn.
    """
    path = Path(path)
    reporter = reporter or SilentReporter()
    source = ParquetSource.open(path)
    request = ColumnRequest(data.text, data.prompt, data.completion, data.auto_infer_types)
    columns = choose_columns(source.columns, request, where=str(path))
    if data.text is None and data.prompt is None:
        reporter.emit(Notice("info", f"{path}: columns inferred: {columns}"))

    fmt = ExampleFormat(
        seq_len=seq_len,
        separator=data.separator,
        train_on_prompt=data.train_on_prompt,
        add_bos=data.add_bos,
        add_eos=data.add_eos,
        overlong=data.overlong,
    )
    encoder = RowEncoder(columns, tokenizer, fmt, where=str(path))
    done = 0
    for batch in source.read(columns.names):
        encoder.add(batch)
        done += len(batch[0])
        reporter.emit(Progress(f"tokenize {path.name}", done, source.n_rows))
    examples = encoder.finish()
    if len(examples) == 0:
        raise _nothing_left(examples.stats, str(path))
    for notice in _notices(examples, seq_len, str(path)):
        reporter.emit(notice)
    return examples


def _nothing_left(stats: ExampleStats, where: str) -> DataError:
    if stats.refused.get(REFUSED_TOO_LONG):
        hint = "raise data.seq_len, or set data.overlong to truncate or split"
    elif stats.refused.get(REFUSED_NO_TARGET):
        hint = "the prompts fill the whole window: raise data.seq_len"
    else:
        hint = "check that the chosen columns hold the text"
    return DataError(
        f"there is nothing to learn from: all {stats.rows} rows were refused ({_reasons(stats)})",
        where=where,
        hint=hint,
    )


def _notices(examples: Examples, seq_len: int, where: str) -> list[Notice]:
    stats = examples.stats
    refused = sum(stats.refused.values())
    notices = []
    if refused:
        notices.append(Notice("warning", f"{where}: {refused} of {stats.rows} rows refused: {_reasons(stats)}"))
    long_rows = f"{where}: rows longer than seq_len {seq_len}: {stats.overlong_rows}"
    if stats.truncated_tokens:
        message = f"{long_rows} cut, {stats.truncated_tokens} tokens at their ends are not trained"
        notices.append(Notice("warning", message))
    elif stats.overlong_rows:
        notices.append(Notice("info", f"{long_rows} split into windows"))
    return notices


def _reasons(stats: ExampleStats) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in stats.refused.items())
