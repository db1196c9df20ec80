"""The model of a finished run as a file: what training changed, in the types of the plan, and what rounding cost it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from entrenar_core.events import Reporter
from entrenar_core.gguf.keys import CHAT_TEMPLATE
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.assemble import Run
from entrenar_core.stages.changes import Changes
from entrenar_core.stages.encodings import encodings_of
from entrenar_core.stages.export import Metadata, ModelForm, export_new, export_over_base
from entrenar_core.stages.export_report import report_rounding
from entrenar_core.stages.merge_result import merged_values
from entrenar_core.stages.output_dir import METRICS, MODEL
from entrenar_core.stages.output_plan import output_plan, writes_model
from entrenar_core.stages.output_types import say_what_types_lose
from entrenar_core.train.metrics import MetricsFile


def write_model(run: Run, step: int, reporter: Reporter) -> Path | None:
    """Write ``model.gguf`` and the report of its errors, where the config wants a model.

    Args:
        run: trained.
        step: whose weights these are.
        reporter: hears of types, errors and files.

    Raises:
        FormatError, TrainingError: values that cannot be written; the message names the tensor.
        OutputError: a file cannot be written.
    """
    if not writes_model(run.config):
        return None
    path = run.folder / MODEL
    errors = _export_new(run, path, reporter) if run.base.file is None else _export_over(run, path, reporter)
    event = report_rounding(errors, step, run.folder, run.config, reporter)
    if event is not None:
        MetricsFile(run.folder / METRICS).append(event)
    return path


def _export_over(run: Run, path: Path, reporter: Reporter) -> list[TensorError]:
    base = run.base
    assert base.file is not None
    changes = Changes.of(run.model, base.file)
    changed = changes.values() if base.merge is None else merged_values(changes, base.merge)
    form = _form(run, changed, reporter)
    if run.quantization is not None:
        changed = {**changed, **run.quantization.masters()}
    return export_over_base(path, base.file, changed, form, reporter, changes.start)


def _export_new(run: Run, path: Path, reporter: Reporter) -> list[TensorError]:
    weights: dict[str, np.ndarray] = {name: tensor.numpy() for name, tensor in run.backbone.parameters().items()}
    form = _form(run, weights, reporter)
    return export_new(path, run.base.metadata, {**weights, **run.base.constants()}, form, reporter)


def _form(run: Run, changed: Collection[str], reporter: Reporter) -> ModelForm:
    plan = output_plan(run.config, run.base, changed)
    say_what_types_lose(plan, reporter)
    added = [*run.provenance(), *_template_used(run)]
    measured = run.calibration if run.quantization is None else None
    importance = {} if measured is None else measured.importance(run.backbone)
    encodings = encodings_of(plan, run.config, run.base, changed, importance)
    if run.quantization is not None:
        encodings |= run.quantization.encodings
    return ModelForm(encodings, plan.file_type, added, run.backend.n_threads)


def _template_used(run: Run) -> Metadata:
    """The chat template of the training data, where the config names another one than the model has: whoever runs the
    model finds the form that it has learned."""
    template = run.data.opened.encoding.template
    if template is None or run.config.data.chat_template is None:
        return []
    return [(CHAT_TEMPLATE, MetadataValue.string(template.text))]
