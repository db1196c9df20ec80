"""The data that models are evaluated on, read and written as tokens as they would be for training.

Of a run's model the `data` section of the run says how: its template, separator and special tokens; of a file, the
defaults of that section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from entrenar_core.config.data import Data, Source
from entrenar_core.config.roles import TASK_ROLES
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.examples import Examples
from entrenar_core.data.load import notice_of, reasons
from entrenar_core.data.loader import Loader
from entrenar_core.data.opening import HEAD_TASKS, OpenedSource, open_sources
from entrenar_core.data.row_encoders import Locate, Rows
from entrenar_core.data.source import DataSource
from entrenar_core.data.task_columns import Task
from entrenar_core.errors import ConfigError, DataError
from entrenar_core.events import Notice, Progress, Reporter
from entrenar_core.stages.dataset import DEFAULT_SEQ_LEN, template_of, templated_tasks
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_settings import EvaluationSettings

BATCH_SIZE = 8
"""Rows of one forward pass, unless the run or the settings say otherwise."""


@dataclass(frozen=True)
class EvaluatedText:
    """Texts, pairs, instructions or chats, opened, and how a model reads them."""

    source: OpenedSource
    encoding: Encoding
    limit: int | None
    batch_size: int

    @property
    def n_rows(self) -> int:
        """Rows that are used."""
        found = self.source.source.n_rows
        return found if self.limit is None else min(found, self.limit)

    def read(self) -> Iterator[tuple[Rows, Locate]]:
        """The rows that are used, in order, by role, a batch at a time, each with a way to name its rows."""
        left = self.n_rows
        for rows, locate in self.source.read():
            count = min(left, len(next(iter(rows.values()))))
            yield {role: values[:count] for role, values in rows.items()}, locate
            left -= count
            if left == 0:
                return


def open_text(
    model: EvaluatedModel, path: str, settings: EvaluationSettings, reporter: Reporter, *, last_turn: bool = False
) -> EvaluatedText:
    """Open data of a language task: a column of texts is read as text, whatever stands beside it.

    Args:
        last_turn: of a chat, only the assistant's last turn is to be predicted.

    Raises:
        DataError: the data cannot be read, or their columns do not tell what they are.
        ConfigError: seq_len is longer than the model's context.
        TokenizerError: the chat template cannot be used.
    """
    data = _section(model, path, settings)
    (source,) = open_sources(data, data.train)
    if source.task in HEAD_TASKS:
        text = data.model_copy(update={"task": str(Task.TEXT), "columns": {"text": source.columns.columns["text"]}})
        (source,) = open_sources(text, text.train)
    if source.columns.inferred:
        reporter.emit(Notice("info", f"{path}: columns inferred: {source.columns}"))
    for note in source.columns.notes:
        reporter.emit(Notice("warning", f"{path}: {note}"))
    fmt = ExampleFormat(
        seq_len=_sequence_length(data.seq_len, model),
        separator=data.separator,
        train_turns="last" if last_turn else data.train_turns,
        add_bos=data.add_bos,
        add_eos=data.add_eos and model.tokenizer.eos_id is not None,
        overlong=data.overlong,
    )
    metadata = model.file.metadata
    templated = templated_tasks(data.chat_template, metadata)
    template = template_of(data.chat_template, templated, (source,), model.tokenizer, metadata, model.name)
    encoding = Encoding(model.tokenizer, fmt, template, templated)
    return EvaluatedText(source, encoding, settings.limit, data.batch_size)


def text_loader(model: EvaluatedModel, data: EvaluatedText, reporter: Reporter) -> Loader:
    """Batches of all rows that are used, those of like length together.

    Raises:
        DataError: no row has anything to predict.
    """
    examples = _tokenize(data, reporter)
    return Loader(
        examples,
        batch_size=data.batch_size,
        seq_len=data.encoding.fmt.seq_len,
        shuffle=False,
        group_by_length=True,
        pad_id=model.tokenizer.pad_id or 0,
    )


def _tokenize(data: EvaluatedText, reporter: Reporter) -> Examples:
    fmt, name = data.encoding.fmt, data.source.source.name
    encoder = data.encoding.encoder(data.source.task, name)
    builder, done = ExampleBuilder(fmt.seq_len, fmt.overlong), 0
    for rows, locate in data.read():
        builder.add(encoder.encode(rows, locate), encoder.default_overlong)
        done += len(next(iter(rows.values())))
        reporter.emit(Progress("tokenizing", done, data.n_rows))
    for message in encoder.notices:
        reporter.emit(Notice("warning", notice_of(name, message)))
    examples = builder.finish()
    stats = examples.stats
    if not len(examples):
        message = f"there is nothing to predict: all {stats.rows} rows were refused ({reasons(stats)})"
        raise DataError(message, where=name, hint="check that the chosen columns hold the text")
    if refused := sum(stats.refused.values()):
        reporter.emit(Notice("warning", f"{name}: {refused} of {stats.rows} rows refused: {reasons(stats)}"))
    if stats.truncated_tokens:
        cut = f"{stats.overlong_rows} rows longer than {fmt.seq_len} tokens were cut"
        reporter.emit(Notice("warning", f"{name}: {cut}; {stats.truncated_tokens} tokens at their ends do not count"))
    return examples


def _section(model: EvaluatedModel, path: str, settings: EvaluationSettings) -> Data:
    """The `data` section of the model's run, or its defaults, with what the settings say."""
    entry = Source(path=path)
    unnamed: dict[str, Any] = dict.fromkeys(("val", "val_fraction", "task", "columns", "text", "prompt", "completion"))
    given = {
        "chat_template": settings.chat_template,
        "separator": settings.separator,
        "seq_len": settings.seq_len,
        "batch_size": settings.batch_size,
        "columns": dict(settings.columns) or None,
    }
    if model.trained is None:
        section = Data(train=(entry,), batch_size=BATCH_SIZE)
    else:
        trained = model.trained.data
        section = trained.model_copy(update={**unnamed, "train": (entry,)})
        if not settings.columns:
            given["columns"] = _columns_of_training(trained, path)
    return section.model_copy(update={key: value for key, value in given.items() if value is not None})


def _columns_of_training(trained: Data, path: str) -> dict[str, str] | None:
    """The columns that the config of a run names, where the data have them all."""
    named = dict(trained.named_columns)
    roles = next((roles for roles in TASK_ROLES.values() if set(roles.required) <= set(named)), None)
    if not named or roles is None:
        return None
    return named if set(named.values()) <= set(DataSource.open(path).schema.names) else None


def _sequence_length(wanted: int | None, model: EvaluatedModel) -> int:
    context = model.spec.context_length
    if wanted is None:
        return min(context, DEFAULT_SEQ_LEN)
    if wanted > context:
        raise ConfigError(
            f"seq-len is {wanted}, but {model.name} was made for {context} tokens",
            where="--seq-len",
            hint=f"{context} or less",
        )
    return wanted
