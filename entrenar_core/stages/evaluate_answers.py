"""`entrenar eval --task exact-match`: questions asked as in training, and what is answered beside what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from entrenar_core.backend.base import Backend
from entrenar_core.data.conversations import chat_row
from entrenar_core.data.load import notice_of
from entrenar_core.data.row_encoders import EncodedRow, Rows, each_row
from entrenar_core.data.task_columns import Task
from entrenar_core.errors import ConfigError, DataError
from entrenar_core.evaluation.answers import AnswerPattern, AnswerResult, generate_answers, judge_answers
from entrenar_core.events import Notice, Progress, Reporter
from entrenar_core.model.generation import Sampling
from entrenar_core.stages.evaluated_data import EvaluatedText, open_text
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import Measure
from entrenar_core.stages.evaluation_settings import EvaluationSettings
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.tokenizer.conversation import ASSISTANT

_ANSWER_ROLES = {Task.PROMPT_COMPLETION: "completion", Task.INSTRUCTION: "output"}

_SHOWN = 80
"""Characters of a text that an error shows."""


@dataclass
class _Asked:
    """Prompts as ids, and the answers that are expected, as the pattern finds them.

    refused: rows without a question or an answer. unmatched: answers in which the pattern finds nothing.
    """

    pattern: AnswerPattern
    prompts: list[list[int]] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    refused: int = 0
    unmatched: list[str] = field(default_factory=list)

    def add(self, row: EncodedRow | str, reference: str | None) -> None:
        """Take a row, or count why not."""
        if not isinstance(row, EncodedRow) or reference is None:
            self.refused += 1
            return
        expected = self.pattern.find(reference)
        if expected is None:
            self.unmatched.append(reference)
            return
        self.prompts.append(list(row.tokens[: row.supervised.index(1)]))
        self.expected.append(expected)


def prepare_answers(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> Measure:
    """Read the questions, write them as prompts of a model, and find the answers that are expected.

    Raises:
        ConfigError: the regex is broken or has not one group, or numbers are out of range.
        DataError: the data cannot be read, or have no questions, or the regex finds no answer in them.
    """
    answers = settings.answers
    pattern = AnswerPattern(answers.regex)
    sampling = Sampling(answers.temperature, answers.top_p, answers.seed)
    if answers.max_tokens < 1:
        raise ConfigError(f"max-tokens is {answers.max_tokens}; it must be at least 1", where="--max-tokens")
    if "" in answers.stop:
        raise ConfigError("a text that ends answers is empty", where="--stop", hint="leave it out")
    text = open_text(model, data, settings, reporter, last_turn=True)
    if text.source.task is Task.TEXT:
        raise DataError(
            "these are texts, not questions with answers",
            where=data,
            hint="name the columns: --columns prompt=COLUMN --columns completion=COLUMN",
        )
    asked = _asked(text, pattern, reporter)
    return partial(_measure, model, asked, sampling, settings, text.batch_size, reporter)


def _measure(
    model: EvaluatedModel,
    asked: _Asked,
    sampling: Sampling,
    settings: EvaluationSettings,
    batch_size: int,
    reporter: Reporter,
    backend: Backend,
) -> AnswerResult:
    fitting = [number for number, ids in enumerate(asked.prompts) if len(ids) < model.spec.context_length]
    if too_long := len(asked.prompts) - len(fitting):
        message = f"{too_long} of {len(asked.prompts)} prompts leave no room in the context of {model.name}"
        reporter.emit(Notice("warning", f"{message}: they count as wrong"))

    def progress(done: int) -> None:
        reporter.emit(Progress("generating", done, len(fitting)))

    with compiling_said("the model", reporter):
        written = generate_answers(
            model.load(backend),
            model.tokenizer,
            [asked.prompts[number] for number in fitting],
            max_tokens=settings.answers.max_tokens,
            sampling=sampling,
            stop=settings.answers.stop,
            batch_size=batch_size,
            progress=progress,
        )
    by_number = dict(zip(fitting, written, strict=True))
    prompts = [model.tokenizer.decode(ids, skip_special=False) for ids in asked.prompts]
    answers = [by_number.get(number) for number in range(len(prompts))]
    return judge_answers(asked.pattern, prompts, answers, asked.expected)


def _asked(data: EvaluatedText, pattern: AnswerPattern, reporter: Reporter) -> _Asked:
    name = data.source.source.name
    encoder = data.encoding.encoder(data.source.task, name)
    asked = _Asked(pattern)
    for rows, locate in data.read():
        for row, reference in zip(encoder.encode(rows, locate), _references(data.source.task, rows), strict=True):
            asked.add(row, reference)
    for message in encoder.notices:
        reporter.emit(Notice("warning", notice_of(name, message)))
    if not asked.prompts:
        raise _nothing_to_ask(name, asked)
    if asked.refused:
        message = f"{name}: {asked.refused} rows have no question or no answer and do not count"
        reporter.emit(Notice("warning", message))
    if asked.unmatched:
        message = f"{name}: in {len(asked.unmatched)} rows the regex finds no expected answer; they do not count"
        reporter.emit(Notice("warning", message))
    return asked


def _nothing_to_ask(name: str, asked: _Asked) -> DataError:
    if not asked.unmatched:
        return DataError(f"all {asked.refused} rows lack a question or an answer", where=name)
    first = asked.unmatched[0]
    shown = first if len(first) <= _SHOWN else f"... {first[-_SHOWN:]}"
    return DataError(
        "the regex finds no answer in any of the expected ones",
        where=name,
        hint=f"it has to match them too; the first one: {shown!r}",
    )


def _references(task: Task, rows: Rows) -> Sequence[str | None]:
    """The expected answer of each row as the data have it; None where there is none."""
    if task in _ANSWER_ROLES:
        return [None if value is None else str(value) for value in rows[_ANSWER_ROLES[task]]]
    return [_last_said(row) for row in each_row(rows)]


def _last_said(row: Mapping[str, Any]) -> str | None:
    """The text of the assistant's last turn."""
    from entrenar_core.tokenizer.conversation import ConversationError

    try:
        conversation = chat_row(row, "")
    except ConversationError:
        return None  # the encoder refuses the row too, and says why
    if isinstance(conversation, str):
        return None
    said = [message.get("content") for message in conversation.messages if message["role"] == ASSISTANT]
    return said[-1] if said and isinstance(said[-1], str) else None
