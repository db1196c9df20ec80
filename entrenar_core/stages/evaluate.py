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

from entrenar_core.backend.select import select_backend
from entrenar_core.events import Event, Notice, Reporter
from entrenar_core.gguf.atomic import check_writable
from entrenar_core.stages.evaluate_choices import prepare_choices
from entrenar_core.stages.evaluate_head import prepare_head
from entrenar_core.stages.evaluate_perplexity import prepare_perplexity
from entrenar_core.stages.evaluated_model import EvaluatedModel, opened_models
from entrenar_core.stages.evaluation_report import Evaluated, EvaluationReport, Measure
from entrenar_core.stages.evaluation_settings import EvaluationSettings, EvaluationTask
from entrenar_core.stages.evaluation_task import choose_evaluation
from entrenar_core.stages.output_file import check_output, plain_files, save_report

Prepare = Callable[[EvaluatedModel, str, EvaluationSettings, Reporter], Measure]
"""A task: opens the data at a path for a model, and raises an EntrenarError for what is wrong with them."""

_TASKS: dict[EvaluationTask, Prepare] = {
    EvaluationTask.PERPLEXITY: prepare_perplexity,
    EvaluationTask.CLASSIFICATION: prepare_head,
    EvaluationTask.REGRESSION: prepare_head,
    EvaluationTask.MULTIPLE_CHOICE: prepare_choices,
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
    output: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter,
) -> EvaluationReport:
    """Measure models on data; a run's folder also gets ``eval-<task>.json``.

    Args:
        paths: GGUF files and folders of runs; results are compared with those of the first.
        data: a file, a folder or a glob.
        settings: see there.
        output: a file for the report as JSON.
        overwrite: whether that may be there already.
        reporter: hears of progress, and of what was skipped or inferred.

    Raises:
        EntrenarError: models, data or outputs cannot be used; nothing is written then.
    """
    listener = _Listener(reporter, [])
    with opened_models(paths, adapter=settings.adapter, base=settings.base) as models:
        chosen = choose_evaluation(models, data, settings)
        listener.emit(Notice("info", f"task: {chosen.task} ({chosen.reason})"))
        if output is not None:
            inputs = [*plain_files(data), *(file for model in models for file in model.files)]
            check_output(output, inputs, overwrite=overwrite)
        for model in models:
            if model.folder is not None:
                check_writable(_own_report(model.folder, chosen.task))
        prepared = [_TASKS[chosen.task](model, data, settings, listener) for model in models]
        found: list[Evaluated] = []
        for model, measure in zip(models, prepared, strict=True):
            evaluated = _evaluate(model, measure, settings)
            found.append(evaluated)
            if model.folder is not None:
                own = EvaluationReport(chosen.task, chosen.reason, data, (evaluated,), tuple(listener.notices))
                listener.emit(save_report(_own_report(model.folder, chosen.task), own.document()))
    report = EvaluationReport(chosen.task, chosen.reason, data, tuple(found), tuple(listener.notices))
    if output is not None:
        listener.emit(save_report(output, report.document()))
    return report


def _own_report(folder: Path, task: EvaluationTask) -> Path:
    return folder / f"eval-{task}.json"


def _evaluate(model: EvaluatedModel, measure: Measure, settings: EvaluationSettings) -> Evaluated:
    with closing(select_backend("auto", settings.threads)) as backend:
        started = time.perf_counter()
        result = measure(backend)
        return Evaluated(model.facts(), result, time.perf_counter() - started)
