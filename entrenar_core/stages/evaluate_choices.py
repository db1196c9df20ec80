"""`entrenar eval --task multiple-choice`: questions out of a table, asked with a template and maybe solved examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from entrenar_core.backend.base import Backend
from entrenar_core.data.choices import ChoiceData, ChoiceQuestion
from entrenar_core.data.column_types import infer_types
from entrenar_core.data.source import DataSource
from entrenar_core.errors import ConfigError, DataError
from entrenar_core.evaluation.choice_prompts import (
    BETWEEN_SHOTS,
    DEFAULT_TEMPLATE,
    Continuation,
    Template,
    continuations,
    cut_left,
    draw_shots,
)
from entrenar_core.evaluation.choices import ChoiceResult, judge_choices, log_likelihoods
from entrenar_core.events import Notice, Progress, Reporter
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import Measure
from entrenar_core.stages.evaluation_settings import ChoiceSettings, EvaluationSettings
from entrenar_core.stages.evaluation_task import SAMPLE_ROWS
from entrenar_core.stages.kernels import compiling_said

BATCH_SIZE = 8
"""Questions that are read together, unless the settings say otherwise."""


@dataclass(frozen=True)
class _Asked:
    """Questions as one model reads them. `truncated`: those that were cut to its context."""

    questions: list[list[Continuation]]
    n_bytes: list[list[int]]
    answers: list[int]
    truncated: int


def prepare_choices(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> Measure:
    """Read all questions, and write them as tokens of a model.

    Raises:
        DataError: a column is missing, a row is damaged, or there is no question with an answer.
        ConfigError: the template is broken or names a column that is missing, or there are too few examples.
    """
    choices = settings.choices
    template = Template.parse(choices.template or DEFAULT_TEMPLATE)
    if choices.shots == 0 and choices.shots_data is not None:
        raise ConfigError("examples are given, and none are asked for", where="--shots-data", hint="--shots 5")
    questions = _questions(data, template, settings.columns, settings.limit, reporter)
    contexts = [template.render(one) for one in questions]
    if choices.shots:
        contexts = _with_shots(contexts, questions, data, template, settings, reporter)
    asked = _asked(model, template, questions, contexts)
    if asked.truncated:
        message = f"{asked.truncated} of {len(questions)} questions are longer than the context of {model.name}"
        reporter.emit(Notice("warning", f"{message}: they were cut on the left"))
    return partial(_measure, model, asked, settings.batch_size or BATCH_SIZE, reporter)


def _measure(
    model: EvaluatedModel, asked: _Asked, batch_size: int, reporter: Reporter, backend: Backend
) -> ChoiceResult:
    def progress(done: int) -> None:
        reporter.emit(Progress("evaluating", done, len(asked.questions)))

    with compiling_said("the model", reporter):
        scores = log_likelihoods(model.load(backend), asked.questions, batch_size=batch_size, progress=progress)
    return judge_choices(scores, asked.n_bytes, asked.answers, asked.truncated)


def _questions(
    path: str, template: Template, named: Mapping[str, str], limit: int | None, reporter: Reporter
) -> list[ChoiceQuestion]:
    source = DataSource.open(path)
    missing = [name for name in template.columns if name not in source.schema.names]
    if missing:
        shown = ", ".join(dict.fromkeys(("question", "choices", *source.schema.names)))
        message = f"{path} has no column {missing[0]!r}"
        raise ConfigError(message, where="--template", hint=f"its braces can hold {shown}")
    data = ChoiceData.open(path, infer_types(source.sample(SAMPLE_ROWS)), named, template.columns)
    found = list(data.questions(limit))
    if not found:
        raise DataError("no row has a question, its choices and the answer", where=path)
    if data.without_answer:
        message = f"{path}: {data.without_answer} rows lack the question, its choices or the answer, and do not count"
        reporter.emit(Notice("warning", message))
    return found


def _with_shots(
    contexts: Sequence[str],
    questions: Sequence[ChoiceQuestion],
    data: str,
    template: Template,
    settings: EvaluationSettings,
    reporter: Reporter,
) -> list[str]:
    """Each context behind solved questions, which the seed and its number draw."""
    choices: ChoiceSettings = settings.choices
    pool = _questions(choices.shots_data or data, template, settings.columns, None, reporter)
    return [
        BETWEEN_SHOTS.join(
            [*map(template.solved, draw_shots(pool, one, choices.shots, (choices.seed, number))), context]
        )
        for number, (one, context) in enumerate(zip(questions, contexts, strict=True))
    ]


def _asked(
    model: EvaluatedModel, template: Template, questions: Sequence[ChoiceQuestion], contexts: Sequence[str]
) -> _Asked:
    answers = [template.answers(one) for one in questions]
    context_length = model.spec.context_length
    whole = continuations(model.tokenizer, contexts, answers)
    cut = [[cut_left(choice, context_length) for choice in one] for one in whole]
    n_bytes = [[len(answer.encode()) for answer in each] for each in answers]
    return _Asked(cut, n_bytes, [one.answer for one in questions], sum(a != b for a, b in zip(cut, whole, strict=True)))
