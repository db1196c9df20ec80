"""How `entrenar eval` shows its results: one function a kind of result, and the table of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from entrenar_cli.eval_likelihood_view import likelihood_sections
from entrenar_cli.quantities import exact_count, short_count, size
from entrenar_cli.sections import Facts, Section, Table
from entrenar_cli.visible import shortened
from entrenar_core.evaluation.answers import AnswerResult
from entrenar_core.evaluation.choices import ChoiceResult
from entrenar_core.evaluation.statistics import Estimate
from entrenar_core.model.head_metrics import ClassFigures
from entrenar_core.stages.evaluate_head import HeadResult
from entrenar_core.stages.evaluate_perplexity import LikelihoodResult
from entrenar_core.stages.evaluation_report import Evaluated, EvaluationReport, TaskResult

_PERCENT = ("accuracy", "accuracy per byte", "macro_f1", "same top")
"""Figures that are shares."""

_NAMES = {"macro_f1": "macro F1", "mse": "MSE", "mae": "MAE", "r2": "R²"}

Pairs = list[tuple[str, str]]


def report_sections(report: EvaluationReport) -> list[Section]:
    """One model: its figures. Several: a table of them all, then the figures of each."""
    results = [section for one in report.models for section in _result_sections(report, one)]
    if not any(one.speed for one in report.models) and len(report.models) == 1:
        return results
    return [comparison(report), *results]


def comparison(report: EvaluationReport) -> Table:
    """A row for each model: size, bits a weight, its figures with what they differ from the first, and its speed."""
    names = list(report.models[0].result.figures)
    columns = ["model", "size", "bits", *(_NAMES.get(name, name) for name in names)]
    has_speed = any(one.speed for one in report.models)
    rows = [_row(one, report.models[0], names, has_speed=has_speed) for one in report.models]
    if has_speed:
        columns += ["read t/s", "gen t/s"]
    return Table(f"{report.task} on {report.data}", columns, rows, frozenset(range(1, len(columns))))


def _row(one: Evaluated, first: Evaluated, names: Sequence[str], *, has_speed: bool) -> list[str]:
    cells = [_short_name(one.model.path), size(one.model.n_bytes), f"{one.model.bits_per_weight:.2f}"]
    for name in names:
        value, reference = one.result.figures.get(name), first.result.figures.get(name)
        cells.append(figure(name, value) + ("" if one is first else _difference(name, value, reference)))
    if has_speed:
        speed = one.speed
        cells += ["", ""] if speed is None else [short_count(speed.reading), short_count(speed.generating)]
    return cells


def figure(name: str, value: float | None) -> str:
    """A number as its name asks for."""
    if value is None:
        return "-"
    if name in _PERCENT:
        return f"{100 * value:.2f} %"
    return f"{value:.6f}" if name == "KL" else f"{value:.4f}"


def _difference(name: str, value: float | None, reference: float | None) -> str:
    if value is None or reference is None:
        return ""
    if name in _PERCENT:
        return f" ({100 * (value - reference):+.2f})"
    return f" ({100 * (value / reference - 1):+.2f} %)" if reference else ""


def _short_name(path: str) -> str:
    return shortened(Path(path).name or path, 40)


def _result_sections(report: EvaluationReport, one: Evaluated) -> list[Section]:
    title = f"{one.model.path}: {report.task} on {report.data}"
    if isinstance(one.result, LikelihoodResult):
        return likelihood_sections(title, one.result)
    sections: list[Section] = [Facts(title, _facts(one.result))]
    if isinstance(one.result, HeadResult) and one.result.classes:
        sections.append(_classes(one.result.classes))
    return sections


def _facts(result: TaskResult) -> Pairs:
    match result:
        case ChoiceResult():
            return [
                ("accuracy", _share(result.accuracy)),
                ("accuracy per byte", _share(result.accuracy_per_byte)),
                ("by guessing", f"{100 * result.chance:.2f} %"),
                ("questions", exact_count(result.questions)),
            ]
        case AnswerResult():
            return _answer_facts(result)
        case HeadResult():
            shown = [(_NAMES.get(name, name), figure(name, value)) for name, value in result.metrics.items()]
            without = f", {exact_count(result.without_text)} without text" if result.without_text else ""
            return [*shown, ("rows", f"{exact_count(result.judged)} judged{without}")]
    return [(name, figure(name, value)) for name, value in result.figures.items()]


def _answer_facts(result: AnswerResult) -> Pairs:
    counts = [
        (result.without_answer, "without an answer"),
        (result.unfinished, "as long as they may be"),
        (result.too_long, "too long to ask"),
    ]
    more = "".join(f", {exact_count(count)} {what}" for count, what in counts if count)
    return [
        ("accuracy", _share(result.accuracy)),
        ("questions", f"{exact_count(result.questions)}{more}"),
        ("generated", f"{exact_count(result.generated_tokens)} tokens"),
    ]


def _share(share: Estimate) -> str:
    """A share with its standard error, in percent."""
    return f"{100 * share.value:.2f} % ± {100 * share.standard_error:.2f}"


def _classes(classes: Sequence[ClassFigures]) -> Table:
    rows = [
        (
            shortened(one.name, 40),
            exact_count(one.support),
            exact_count(one.predicted),
            *(figure("accuracy", value) for value in (one.precision, one.recall, one.f1)),
        )
        for one in classes
    ]
    columns = ("class", "rows", "predicted", "precision", "recall", "F1")
    return Table("classes", columns, rows, frozenset(range(1, len(columns))))
