"""Which task an evaluation is: what is asked for, else what model and columns make clear, with the reason in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entrenar_core.data.choices import CHOICE_ROLES, choice_columns
from entrenar_core.data.column_types import ColumnType, infer_types
from entrenar_core.data.plain_text import is_plain_text
from entrenar_core.data.source import DataSource
from entrenar_core.errors import ConfigError
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_settings import EvaluationSettings, EvaluationTask

SAMPLE_ROWS = 1000
"""Rows from which the types of columns are inferred here."""

HEADS = (EvaluationTask.CLASSIFICATION, EvaluationTask.REGRESSION)


@dataclass(frozen=True)
class ChosenTask:
    """A task, and why it is this one."""

    task: EvaluationTask
    reason: str


def choose_evaluation(models: Sequence[EvaluatedModel], data: str, settings: EvaluationSettings) -> ChosenTask:
    """The task of an evaluation.

    Raises:
        ConfigError: the task does not fit the models, or one of them has a head and another has not.
        DataError: the data cannot be read.
    """
    heads = {None if model.head is None else EvaluationTask(str(model.head.head.task)) for model in models}
    if len(heads) > 1:
        raise ConfigError("models with heads cannot be compared with others", hint="evaluate them one by one")
    (head,) = heads
    chosen = _chosen(head, models[0], data, settings)
    option = settings.likelihood.first_given()
    if option is not None and chosen.task is not EvaluationTask.PERPLEXITY:
        raise ConfigError(f"the task is {chosen.task}", where=option, hint="this option belongs to --task perplexity")
    return chosen


def _chosen(head: EvaluationTask | None, model: EvaluatedModel, data: str, settings: EvaluationSettings) -> ChosenTask:
    if settings.task is not None:
        _check(settings.task, head, model)
        return ChosenTask(settings.task, "as asked for")
    if head is not None:
        return ChosenTask(head, f"{model.name} is a run with a head for {head}")
    if settings.answers.regex is not None:
        return ChosenTask(EvaluationTask.EXACT_MATCH, "a regex for answers is given")
    if (option := settings.likelihood.first_given()) is not None:
        return ChosenTask(EvaluationTask.PERPLEXITY, f"{option} is given")
    if is_plain_text(data):
        return ChosenTask(EvaluationTask.PERPLEXITY, "the data are a plain text")
    return _by_columns(infer_types(DataSource.open(data).sample(SAMPLE_ROWS)), settings.columns)


def _check(task: EvaluationTask, head: EvaluationTask | None, model: EvaluatedModel) -> None:
    if head is not None and task is not head:
        message = f"{model.name} answers with its head for {head}, which has no {task}"
        raise ConfigError(message, where="--task", hint=f"--task {head}, or leave it out")
    if head is None and task in HEADS:
        message = f"{model.name} has no head for {task}"
        hint = f"give the folder of a run with data.task: {task}, or choose --task multiple-choice or exact-match"
        raise ConfigError(message, where="--task", hint=hint)


def _by_columns(types: Mapping[str, ColumnType], named: Mapping[str, str]) -> ChosenTask:
    if set(named) & (set(CHOICE_ROLES) - {"answer"}):
        return ChosenTask(EvaluationTask.MULTIPLE_CHOICE, "its columns are named")
    found = choice_columns(types)
    if {"question", "choices"} <= set(found):
        shown = ", ".join(f"{role} {name!r}" for role, name in found.items())
        return ChosenTask(EvaluationTask.MULTIPLE_CHOICE, f"the columns are a question with its choices ({shown})")
    return ChosenTask(EvaluationTask.PERPLEXITY, "no choices, no regex and no head: how well the texts are predicted")
