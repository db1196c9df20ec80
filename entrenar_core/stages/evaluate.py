"""`entrenar eval`: models measured on data, one after another and each from its mapped file.

Everything that can be wrong with models, data and outputs is looked for before the first model is loaded: a task is a
function that opens the data for one model and returns what measures it. `_TASKS` has them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.backend.gpu_worth import Work
from entrenar_core.events import Event, Notice, Reporter
from entrenar_core.stages.device import measuring_wish, open_backend
from entrenar_core.stages.evaluate_answers import prepare_answers
from entrenar_core.stages.evaluate_choices import prepare_choices
from entrenar_core.stages.evaluate_head import prepare_head
from entrenar_core.stages.evaluate_perplexity import prepare_perplexity
from entrenar_core.stages.evaluated_model import EvaluatedModel, opened_models
from entrenar_core.stages.evaluation_output import EvaluationOutput, own_report
from entrenar_core.stages.evaluation_report import Evaluated, EvaluationReport, Measure
from entrenar_core.stages.evaluation_settings import EvaluationSettings, EvaluationTask
from entrenar_core.stages.evaluation_speed import measure_speed
from entrenar_core.stages.evaluation_task import choose_evaluation
from entrenar_core.stages.output_file import save_report
from entrenar_core.stages.text_work import reading_work

Prepare = Callable[[EvaluatedModel, str, EvaluationSettings, Reporter], Measure]
"""A task: opens the data at a path for a model, and raises an EntrenarError for what is wrong with them."""

DEFAULT_LENGTH = 1024
"""Tokens of a row or window whose length is not given, at most."""

_TASKS: dict[EvaluationTask, Prepare] = {
    EvaluationTask.PERPLEXITY: prepare_perplexity,
    EvaluationTask.CLASSIFICATION: prepare_head,
    EvaluationTask.REGRESSION: prepare_head,
    EvaluationTask.MULTIPLE_CHOICE: prepare_choices,
    EvaluationTask.EXACT_MATCH: prepare_answers,
}


@dataclass
class _Listener:
    """Hands events on and keeps the notices."""

    reporter: Reporter
    notices: list[str]

    def emit(self, event: Event) -> None:
        if isinstance(event, Notice) and event.message not in self.notices:
            self.notices.append(event.message)
            self.reporter.emit(event)
        elif not isinstance(event, Notice):
            self.reporter.emit(event)


def run_evaluation(
    paths: Sequence[Path],
    data: str,
    *,
    settings: EvaluationSettings,
    output: EvaluationOutput | None = None,
    reporter: Reporter,
) -> EvaluationReport:
    """Measure models on data; a run's folder also gets ``eval-<task>.json``.

    Args:
        paths: GGUF files and folders of runs; results are compared with those of the first.
        data: a file, a folder or a glob.
        settings: see there.
        output: files to write.
        reporter: hears of progress, and of what was skipped or inferred.

    Raises:
        EntrenarError: models, data or outputs cannot be used; nothing is written then.
    """
    output, listener = output or EvaluationOutput(), _Listener(reporter, [])
    found: list[Evaluated] = []
    with opened_models(paths, adapter=settings.adapter, base=settings.base) as models:
        chosen = choose_evaluation(models, data, settings)
        listener.emit(Notice("info", f"task: {chosen.task} ({chosen.reason})"))
        output.check(chosen.task, models, data, settings.likelihood.reference)

        def report_of(*evaluated: Evaluated) -> EvaluationReport:
            return EvaluationReport(chosen.task, chosen.reason, data, settings, evaluated, tuple(listener.notices))

        prepared = [_TASKS[chosen.task](model, data, settings, listener) for model in models]
        work = _work(models, data, settings)
        for model, measure in zip(models, prepared, strict=True):
            found.append(_evaluate(model, measure, settings, work, listener))
            if model.folder is not None:
                listener.emit(save_report(own_report(model.folder, chosen.task), report_of(found[-1]).document()))
        report = report_of(*found)
    output.save(report, listener)
    return report


def _work(models: Sequence[EvaluatedModel], data: str, settings: EvaluationSettings) -> Work:
    """That of the largest model: all of them compute on one device, so that they can be compared."""
    rows, windows = settings.limit, settings.likelihood.chunks
    limits = [
        None if rows is None else rows * (settings.seq_len or DEFAULT_LENGTH),
        None if windows is None else windows * (settings.likelihood.context or DEFAULT_LENGTH),
    ]
    at_most = min((limit for limit in limits if limit is not None), default=None)
    return max((reading_work(model.file, data, at_most) for model in models), key=lambda work: work.cpu_seconds)


def _evaluate(
    model: EvaluatedModel, measure: Measure, settings: EvaluationSettings, work: Work, reporter: Reporter
) -> Evaluated:
    with closing(open_backend(measuring_wish(settings.device, settings.threads), work, reporter)) as backend:
        started = time.perf_counter()
        result = measure(backend)
        seconds = time.perf_counter() - started
        speed = measure_speed(model, backend) if settings.measures_speed else None
        return Evaluated(model.facts(), result, seconds, speed)
