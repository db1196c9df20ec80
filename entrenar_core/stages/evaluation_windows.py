"""Which tokens are scored: those of a long text in windows, or those of rows that training would learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from entrenar_core.data.batch import Batch, Int32Array
from entrenar_core.data.loader import Loader
from entrenar_core.data.plain_text import is_plain_text, read_plain_text
from entrenar_core.data.task_columns import Task
from entrenar_core.errors import ConfigError, DataError
from entrenar_core.evaluation.windows import Windows, llama_cpp_windows, sliding_windows
from entrenar_core.events import Reporter
from entrenar_core.stages.evaluated_data import open_text, text_loader
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_settings import EvaluationSettings, LikelihoodSettings, WindowKind

DEFAULT_CONTEXT = 512
"""Tokens of a window, as llama-perplexity has them."""

BETWEEN_ROWS = "\n\n"
"""What stands between rows that are read as one text, as in Hugging Face's guide to perplexity."""


@dataclass(frozen=True)
class ScoredData:
    """Batches of `n_rows` rows in all, anew at each call. reading: how the data are read, in words."""

    batches: Callable[[], Iterable[Batch]]
    n_rows: int
    reading: str


def scored_data(
    model: EvaluatedModel, data: str, settings: EvaluationSettings, context_limit: int, reporter: Reporter
) -> ScoredData:
    """Read and tokenize what a model is scored on.

    Args:
        model: whose tokenizer is used.
        data: a plain text, or rows that a model can be trained on.
        settings: see there.
        context_limit: the most tokens of a window.
        reporter: hears of progress and notices.

    Raises:
        ConfigError: options do not fit the data or each other, or a window is longer than a context.
        DataError: the data cannot be read, or have too few tokens.
        TokenizerError: see `open_text`.
    """
    wanted = settings.likelihood
    if is_plain_text(data):
        _check_text_options(settings)
        text = read_plain_text(data)
    elif wanted.windows is None:
        _check_row_options(wanted, data)
        return _rows(text_loader(model, open_text(model, data, settings, reporter), reporter))
    else:
        text = _joined_rows(model, data, settings, reporter)
    kind = wanted.windows or WindowKind.LLAMA_CPP
    context = _context(wanted.context, context_limit, model.name)
    try:
        found = _windows(model, text, kind, context, wanted.stride)
    except DataError as error:
        raise DataError(error.message, where=error.where or data, hint=error.hint) from error
    found = found if wanted.chunks is None else found.first(wanted.chunks)
    return ScoredData(
        partial(found.batches, settings.batch_size), len(found), _in_words(kind, context, wanted, len(found))
    )


def _windows(model: EvaluatedModel, text: str, kind: WindowKind, context: int, stride: int | None) -> Windows:
    tokenizer = model.tokenizer
    ids: Int32Array = np.asarray(tokenizer.encode(text, add_special=True), np.int32)
    if kind is WindowKind.SLIDING:
        return sliding_windows(ids, context, stride or max(1, context // 2))
    return llama_cpp_windows(ids, context, bos_id=tokenizer.bos_id if tokenizer.add_bos else None)


def _in_words(kind: WindowKind, context: int, wanted: LikelihoodSettings, count: int) -> str:
    windows = f"{count} window{'s' if count != 1 else ''} of {context} tokens"
    if kind is WindowKind.LLAMA_CPP:
        return f"{windows}, the second half of each scored, as llama-perplexity does"
    return f"{windows}, one every {wanted.stride or max(1, context // 2)}, each token scored once"


def _rows(loader: Loader) -> ScoredData:
    def batches() -> Iterable[Batch]:
        found = (loader.batch(0, index) for index in range(loader.batches_per_epoch(0)))
        return (batch for batch in found if batch.n_supervised)

    return ScoredData(batches, len(loader.examples), "each row by itself, the tokens scored that training would learn")


def _joined_rows(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> str:
    """All texts of a column as one."""
    rows = open_text(model, data, settings, reporter)
    if rows.source.task is not Task.TEXT:
        message = f"its rows are {rows.source.task}, and windows are cut out of texts"
        raise ConfigError(message, where=data, hint="leave out --windows, or name a column with --columns text=COLUMN")
    texts = [text for batch, _ in rows.read() for text in batch["text"] if text]
    if not texts:
        raise DataError("no row has a text", where=data)
    return BETWEEN_ROWS.join(texts)


def _context(wanted: int | None, limit: int, name: str) -> int:
    if wanted is None:
        return min(limit, DEFAULT_CONTEXT)
    if wanted > limit:
        message = f"windows of {wanted} tokens, but {name} and what it is compared with can read {limit}"
        raise ConfigError(message, where="--ctx", hint=f"{limit} or less")
    return wanted


def _check_text_options(settings: EvaluationSettings) -> None:
    if settings.limit is not None:
        raise ConfigError("a plain text has no rows", where="--limit", hint="--chunks says how many windows are scored")
    if settings.seq_len is not None:
        raise ConfigError("a plain text has no examples", where="--seq-len", hint="--ctx says how long windows are")
    wanted = settings.likelihood
    if wanted.stride is not None and wanted.windows is not WindowKind.SLIDING:
        raise ConfigError("llama.cpp's windows do not overlap", where="--stride", hint="add --windows sliding")


def _check_row_options(wanted: LikelihoodSettings, data: str) -> None:
    """Without windows, nothing of them may be asked for."""
    given = {"--ctx": wanted.context, "--stride": wanted.stride, "--chunks": wanted.chunks}
    for option, value in given.items():
        if value is not None:
            message = f"the rows of {data} are read one by one"
            raise ConfigError(message, where=option, hint="add --windows to read them as one text")
