"""`entrenar train --dry-run` and `entrenar validate`: what a run would do and take, before anything is written.

`check_run` opens model and data and stops there: everything that can be wrong with the config is found in a second.
`plan_run` goes on: it tokenizes (the cache keeps that for the run), counts, estimates memory and disk from shapes
alone, and, if the model fits, builds it and times one step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from entrenar_core.backend.base import Backend
from entrenar_core.backend.select import choose_device, make_backend
from entrenar_core.config.root import Config
from entrenar_core.data.batch import Batch
from entrenar_core.data.load import notice_of
from entrenar_core.errors import OutputError
from entrenar_core.events import Event, Notice, Reporter
from entrenar_core.quant.fake import FakeQuantization
from entrenar_core.stages.assemble import Run, assemble, head_spec, train_settings
from entrenar_core.stages.base_model import BaseModel, open_base
from entrenar_core.stages.dataset import DataSets, OpenedData, load_datasets, open_data
from entrenar_core.stages.device import described, require_device
from entrenar_core.stages.device_memory import plan_device_memory
from entrenar_core.stages.distill import Distillation, open_distillation
from entrenar_core.stages.distill_plan import at_full_load, distill_plan, made_of, stand_in
from entrenar_core.stages.distill_time import with_cache, with_writing
from entrenar_core.stages.dry_pass import BatchShape
from entrenar_core.stages.estimate import estimate_memory
from entrenar_core.stages.fit import available_memory_bytes, memory_verdict
from entrenar_core.stages.measure import StepTime, measure_step, time_plan
from entrenar_core.stages.output_dir import check_output_dir
from entrenar_core.stages.output_plan import output_plan, trained_shapes, writes_model
from entrenar_core.stages.output_types import fall_backs
from entrenar_core.stages.packing import described_types
from entrenar_core.stages.plan_data import preview_samples, source_plan, token_counts
from entrenar_core.stages.plan_resources import disk_of, memory_request
from entrenar_core.stages.plan_types import DistillPlan, RunPlan, SourcePlan, StepPlan, TimePlan
from entrenar_core.stages.qat import described_output
from entrenar_core.stages.qat_weights import rounded_encodings
from entrenar_core.stages.run_calibration import open_calibration
from entrenar_core.stages.train import ResumeFrom, find_checkpoint, model_files
from entrenar_core.stages.training_device import training_wish, training_work
from entrenar_core.train.parts import steps_per_epoch
from entrenar_core.train.settings import TrainSettings

SHOWN_CLASSES = 12
"""Classes that a plan names."""


@dataclass(frozen=True)
class CheckedRun:
    """A config whose model, data and output folder are there and fit together."""

    model: str
    architecture: str
    method: str
    train: tuple[SourcePlan, ...]
    val: tuple[SourcePlan, ...]
    is_streamed: bool
    output_dir: str
    warnings: tuple[str, ...]
    distill: DistillPlan | None = None


@dataclass(frozen=True)
class _Opened:
    """What a run reads, with its files open until `files` is closed."""

    base: BaseModel
    sources: OpenedData
    distillation: Distillation | None
    files: ExitStack


class _Warnings:
    """Passes events on and keeps the warnings among them."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.found: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Notice):
            if event.level != "info":
                self.found.append(event.message)
            return
        self.reporter.emit(event)


def check_run(config: Config, reporter: Reporter) -> CheckedRun:
    """Open everything a run reads, and look at where it would write.

    Raises:
        EntrenarError: something cannot be used.
    """
    warnings = _Warnings(reporter)
    _look_for_earlier_run(config, None, warnings)
    opened = _open(config, warnings)
    with opened.files:
        base, sources, distillation = opened.base, opened.sources, opened.distillation
        warnings.found += _first_rows(sources)
        return CheckedRun(
            model=base.name,
            architecture=base.spec.architecture,
            method=method_of(config, base, sources),
            train=tuple(map(source_plan, sources.train)),
            val=tuple(map(source_plan, sources.val)),
            is_streamed=sources.streaming,
            output_dir=config.training.output_dir,
            warnings=tuple(warnings.found),
            distill=None if distillation is None else distill_plan(base, distillation, None),
        )


def _look_for_earlier_run(config: Config, resume_from: ResumeFrom, warnings: _Warnings) -> None:
    """Results that are in the way of a run are no reason not to look at it."""
    folder = Path(config.training.output_dir)
    check_output_dir(folder, model_files(config))
    try:
        find_checkpoint(config, resume_from, warnings)
    except OutputError as error:
        warnings.found.append(str(error).replace("\n  hint: ", "; "))


def _first_rows(opened: OpenedData) -> Iterator[str]:
    """Encode the first rows of each source: what a template, a label or a message does wrong shows there.

    Raises:
        DataError: a row cannot be used.
    """
    for one in (*opened.train, *opened.val):
        encoder = opened.encoding.encoder(one.task, one.source.name)
        rows, locate = next(one.read())
        refused = Counter(row for row in encoder.encode(rows, locate) if isinstance(row, str))
        count = sum(refused.values())
        if count:
            reasons = ", ".join(f"{times} {reason}" for reason, times in refused.items())
            yield f"{one.source.name}: {count} of the first {len(next(iter(rows.values())))} rows refused: {reasons}"
        yield from (notice_of(one.source.name, message) for message in encoder.notices)


def plan_run(config: Config, reporter: Reporter, *, resume_from: ResumeFrom = None) -> RunPlan:
    """Plan a run: see above.

    Args:
        config: checked.
        reporter: hears the progress of tokenizing.
        resume_from: see `train.ResumeFrom`; the plan is that of the whole run.

    Raises:
        EntrenarError: something cannot be used.
    """
    warnings = _Warnings(reporter)
    require_device(training_wish(config.training))
    _look_for_earlier_run(config, resume_from, warnings)
    opened = _open(config, warnings)
    with opened.files as files:
        data = load_datasets(config, opened.base, opened.sources, warnings)
        files.callback(data.close)
        return _plan(config, opened, data, warnings)


def _open(config: Config, reporter: Reporter) -> _Opened:
    """Model, teachers and data; what is written must not be written over them."""
    with ExitStack() as files:
        base = open_base(config, reporter)
        files.callback(base.close)
        distillation = open_distillation(config, base, reporter)
        if distillation is not None:
            files.callback(distillation.close)
        sources = open_data(config, base, reporter)
        if distillation is not None:
            distillation.check_length(sources.encoding.fmt.seq_len)
        check_output_dir(Path(config.training.output_dir), sources.files())
        _check_result(config, base, sources, reporter)
        return _Opened(base, sources, distillation, files.pop_all())


def _check_result(config: Config, base: BaseModel, opened: OpenedData, reporter: Reporter) -> None:
    """The types that the result is written in can be had, and what its errors are weighed by can be read."""
    open_calibration(config, base, reporter)
    head = head_spec(opened)
    if writes_model(config):
        types = output_plan(config, base, trained_shapes(config, base, head))
        if message := fall_backs(types):
            reporter.emit(Notice("warning", message))
    rounded_encodings(config, base, head)


def _plan(config: Config, opened: _Opened, data: DataSets, warnings: _Warnings) -> RunPlan:
    base, distillation = opened.base, opened.distillation
    settings = train_settings(config, data)
    taught = None if distillation is None else distill_plan(base, distillation, data)
    wish = training_wish(config.training)
    choice = choose_device(wish, training_work(config, base, data, settings))
    request = memory_request(config, base, data, settings, distillation, taught)
    request = replace(request, on_device=choice.device == "cuda")
    memory = estimate_memory(request)
    verdict = memory_verdict(request, memory, available_memory_bytes())
    steps = _steps(data, settings, request.batches)
    backend = make_backend(choice, wish)
    try:
        free = backend.free_device_bytes()
        on_device = plan_device_memory(request, choice.compute_dtype, free) if request.on_device else None
        fits = verdict.fits and (on_device is None or on_device.verdict.fits)
        time = _time(config, opened, data, backend, steps, taught) if fits else None
    finally:
        backend.close()
    shapes = trained_shapes(config, base, head_spec(data.opened))
    trained = sum(math.prod(shape) for shape in shapes.values())
    adapters = trained if config.lora is not None else 0
    return RunPlan(
        model=base.name,
        architecture=base.spec.architecture,
        parameters=base.n_parameters() + adapters,
        trainable_parameters=trained,
        method=method_of(config, base, data.opened),
        train=tuple(map(source_plan, data.opened.train)),
        val=tuple(map(source_plan, data.opened.val)),
        train_tokens=token_counts(data),
        val_tokens=None if data.val is None else token_counts(data, validation=True),
        steps=steps,
        memory=memory,
        memory_verdict=verdict,
        disk=disk_of(config, base, data, settings, shapes, distillation, taught),
        time=time,
        output_dir=config.training.output_dir,
        previews=tuple(preview_samples(data, base.tokenizer)),
        warnings=tuple([*warnings.found, *_advice(fits, time)]),
        distill=taught,
        device=described(choice),
        device_memory=on_device,
    )


def method_of(config: Config, base: BaseModel, opened: OpenedData) -> str:
    """What is trained, in a few words."""
    lora, held_as = config.lora, base.held_as
    if base.student is not None:
        what = f"a student, made of {made_of(base.student)}"
    elif lora is None:
        what = "all weights" if config.model.path is not None else "a new model from random weights"
    else:
        packed = f" on a base in {described_types(held_as)} blocks (QLoRA)" if held_as else ""
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        what = f"LoRA of rank {lora.rank} on {targets}{packed}"
    head = "" if opened.head_task is None else f", and a head for {opened.head_task}{_classes(opened)}"
    merge = "" if config.merge is None else f"; the change is merged by {config.merge.method}"
    return f"{what}{head}{merge}{described_output(config)}"


def _classes(opened: OpenedData) -> str:
    """The classes, as far as they fit a line."""
    labels = opened.encoding.labels
    if labels is None or not labels.classes:
        return ""
    shown = ", ".join(labels.classes[:SHOWN_CLASSES]) + (", ..." if len(labels.classes) > SHOWN_CLASSES else "")
    return f" into {len(labels.classes)} classes ({shown})"


def _steps(data: DataSets, settings: TrainSettings, batches: Sequence[BatchShape]) -> StepPlan:
    rows, width = max(batches, key=lambda shape: shape[0] * shape[1])
    loader, steps, accum = data.train_loader, settings.total_steps, settings.grad_accum
    done = loader.epochs_done(0, loader.batches_per_epoch(0)) / steps_per_epoch(loader, 0, accum) * steps
    return StepPlan(
        steps=steps,
        epochs=done,
        batches_per_step=accum,
        batch_rows=rows,
        row_width=width,
        evaluations=_evaluations(data, settings, done),
        checkpoints=1 + (0 if settings.save_every is None else (steps - 1) // settings.save_every),
    )


def _evaluations(data: DataSets, settings: TrainSettings, epochs: float) -> int:
    """At fixed steps or at the end of each epoch, and at the end of the run."""
    if data.val is None:
        return 0
    if settings.eval_every is not None:
        return -(-settings.total_steps // settings.eval_every)
    return max(1, math.ceil(epochs - 1e-6))


def _time(
    config: Config, opened: _Opened, data: DataSets, backend: Backend, steps: StepPlan, taught: DistillPlan | None
) -> TimePlan:
    """Build the model and time a step; a student of random weights takes the same time, and is made at once."""
    base, distillation = opened.base, opened.distillation
    if base.student is not None:
        base = replace(base, student=replace(base.student, blocks=None))
    full = None if distillation is None else at_full_load(distillation)
    signal = None if full is None else stand_in(full, backend)
    run = assemble(config, base, data, backend, distillation=full, signal=signal)
    batches = [data.train_loader.batch(0, index) for index in range(min(8, data.train_loader.batches_per_epoch(0)))]
    typical = sorted(batches, key=lambda batch: batch.tokens.size)[len(batches) // 2]
    measured = _measured(run, typical)
    padded = float(data.train_loader.shapes(0).prod(axis=1).mean()) * steps.batches_per_step
    fill = sum(batch.n_tokens for batch in batches) / sum(batch.tokens.size for batch in batches)
    plan = time_plan(measured, steps=steps.steps, padded_tokens=padded, tokens=padded * fill)
    plan = _with_evaluations(plan, measured, data, steps.evaluations)
    if distillation is None:
        return plan
    plan = with_writing(plan, distillation.on_policy(base.tokenizer), run.backbone, typical, steps)
    return with_cache(plan, taught, distillation, backend, typical)


def _measured(run: Run, batch: Batch) -> StepTime:
    """The time of a step on a batch, with weights that are rounded from the first one on."""
    if run.quantization is None:
        return measure_step(run.learner, batch, run.optimizer)
    run.quantization.switch.is_on = True
    measured = measure_step(run.learner, batch, run.optimizer)
    return replace(measured, update_seconds=measured.update_seconds + _rounding_seconds(run.quantization, run.backend))


def _rounding_seconds(quantization: FakeQuantization, backend: Backend) -> float:
    """The time that each step spends on rounding the weights that it has changed."""
    started = perf_counter()
    quantization.round_all()
    backend.synchronize()
    return perf_counter() - started


def _with_evaluations(plan: TimePlan, measured: StepTime, data: DataSets, evaluations: int) -> TimePlan:
    """The time of the evaluations too: forward alone, a third of the work of a step."""
    if data.val_loader is None or not evaluations:
        return plan
    padded = int(data.val_loader.shapes(0).prod(axis=1).sum())
    seconds = evaluations * padded * measured.seconds_per_token / 3
    return replace(plan, seconds=plan.seconds + seconds, method=f"{plan.method}; evaluations reckoned from it")


def _advice(fits: bool, time: TimePlan | None) -> Iterator[str]:
    if not fits:
        yield "the run does not fit into the free memory, so no step was timed"
    elif time is None:
        yield "no step was timed"
