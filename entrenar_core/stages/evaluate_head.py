"""`entrenar eval` for a run with a head: its answers on labelled data, judged as `entrenar predict` judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

from entrenar_core.backend.base import Backend
from entrenar_core.data.predictions import PredictionInput
from entrenar_core.errors import DataError
from entrenar_core.events import Notice, Progress, Reporter
from entrenar_core.model.head_metrics import ClassFigures, class_figures
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import Measure
from entrenar_core.stages.evaluation_settings import EvaluationSettings
from entrenar_core.stages.head_run import HeadRun
from entrenar_core.stages.judge import Judge
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.stages.predict import predictor_of


@dataclass(frozen=True)
class HeadResult:
    """Metrics of a head over `judged` rows; `classes` is empty for a regression."""

    metrics: Mapping[str, float | None]
    judged: int
    without_text: int
    truncated: int
    classes: tuple[ClassFigures, ...] = ()

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What models are compared by."""
        return self.metrics

    def as_json(self) -> Mapping[str, object]:
        """Metrics and counts; the classes with their figures."""
        counts = {"judged": self.judged, "without_text": self.without_text, "truncated": self.truncated}
        return {**self.metrics, **counts, "classes": [asdict(one) for one in self.classes]}


def prepare_head(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> Measure:
    """Open labelled data for the head of a run.

    Raises:
        DataError: the data cannot be read, or lack the texts or the truth.
    """
    run = model.head
    if run is None:
        raise ValueError(f"{model.name} has no head")
    head = run.head
    role = "label" if head.is_classification else "target"
    text, target = settings.columns.get("text", head.text_column), settings.columns.get(role, head.target_column)
    found = PredictionInput.open(data, text=text, target=target, kept=(), added=())
    if found.target_column is None:
        raise DataError(
            f"there is no column {target!r} with what is true",
            where=data,
            hint=f"name it with --columns {role}=COLUMN; entrenar predict needs none",
        )
    return partial(_measure, model, run, found, settings, reporter)


def _measure(
    model: EvaluatedModel,
    run: HeadRun,
    data: PredictionInput,
    settings: EvaluationSettings,
    reporter: Reporter,
    backend: Backend,
) -> HeadResult:
    judge = Judge(run.head)
    predictor = predictor_of(run, model.file, backend, settings.batch_size)
    total = data.source.n_rows if settings.limit is None else min(settings.limit, data.source.n_rows)
    with compiling_said("the model", reporter):
        for window in data.windows():
            count = min(len(window.texts), total - predictor.rows)
            answered, outputs = predictor.outputs(window.texts[:count])
            judge.add((window.targets or [])[:count], answered, outputs)
            reporter.emit(Progress("evaluating", predictor.rows, total))
            if predictor.rows == total:
                break
    for notice in judge.notices():
        reporter.emit(notice)
    answers = judge.answers()
    if answers is None:
        raise DataError("no row has both a text and what is true of it", where=data.source.name)
    if predictor.truncated:
        message = f"{predictor.truncated} rows are longer than the model was trained for and were cut"
        reporter.emit(Notice("warning", message))
    classes = class_figures(answers, run.head.classes) if run.head.is_classification else ()
    return HeadResult(judge.metrics(), judge.count, predictor.without_text, predictor.truncated, tuple(classes))
