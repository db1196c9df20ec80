"""`entrenar train`: from a checked config to a trained GGUF, an adapter, metrics and checkpoints.

Everything that can be wrong is looked at before anything is written: model, tokenizer, targets, data, output folder.
Then the loop runs, and the result is exported from the base file and the trained tensors.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.config.resolved import resolved_yaml
from entrenar_core.config.root import Config
from entrenar_core.errors import FormatError, OutputError, TrainingError
from entrenar_core.events import Finished, Notice, Reporter, RunStarted, Saved
from entrenar_core.gguf.atomic import atomic_file
from entrenar_core.lora.files import adapter_pairs, write_adapter
from entrenar_core.model.head_file import HEAD_FILE, write_head
from entrenar_core.model.heads import SequenceModel
from entrenar_core.optim.build import build_schedule
from entrenar_core.stages.assemble import Run, assemble, head_spec, train_settings
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import load_datasets, open_data
from entrenar_core.stages.device import open_backend, require_device
from entrenar_core.stages.distill import open_distillation
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.stages.output_dir import (
    ADAPTER,
    METRICS,
    RESOLVED,
    check_output_dir,
    clear_output_dir,
    make_output_dir,
    require_no_results,
)
from entrenar_core.stages.output_plan import output_plan, trained_shapes, writes_model
from entrenar_core.stages.qat import QuantizationSwitch, qat_section
from entrenar_core.stages.run_calibration import open_calibration
from entrenar_core.stages.training_device import training_wish, training_work
from entrenar_core.stages.write_model import write_model
from entrenar_core.train.callbacks import Callback
from entrenar_core.train.checkpoint import Checkpoint, RunRecord, read_checkpoint
from entrenar_core.train.checkpoint_store import CHECKPOINTS, CheckpointStore, latest_checkpoint
from entrenar_core.train.interrupt import StopSignal
from entrenar_core.train.loop import Trainer, TrainResult
from entrenar_core.train.metrics import MetricsFile
from entrenar_core.train.parts import BatchSource
from entrenar_core.train.prefetch import Prefetched
from entrenar_core.train.resume import require_same_config, restore_parameters, resume
from entrenar_core.train.state import TrainState

ResumeFrom = Path | str | None
"""A checkpoint folder, "auto" for the newest one of the output folder, or None for a new run."""


@dataclass(frozen=True)
class RunResult:
    """What a run left behind; a path is None if that file was not asked for."""

    reason: str
    steps: int
    train_loss: float | None
    val_loss: float | None
    model: Path | None
    adapter: Path | None
    head: Path | None
    seconds: float


def run_training(
    config: Config, *, resume_from: ResumeFrom = None, overwrite: bool = False, reporter: Reporter
) -> RunResult:
    """Train as a config says.

    Args:
        config: checked.
        resume_from: see `ResumeFrom`.
        overwrite: what an earlier run has left in the output folder goes, once everything is known to fit.
        reporter: hears everything.

    Raises:
        EntrenarError: input that cannot be used (nothing is written then), a run that fails, or an interrupt.
    """
    folder = Path(config.training.output_dir)
    require_device(training_wish(config.training))
    check_output_dir(folder, model_files(config))
    checkpoint = None if overwrite else find_checkpoint(config, resume_from, reporter)
    with ExitStack() as opened:
        base = open_base(config, reporter)
        opened.callback(base.close)
        distillation = open_distillation(config, base, reporter)
        if distillation is not None:
            opened.callback(distillation.close)
        sources = open_data(config, base, reporter)
        if distillation is not None:
            distillation.check_length(sources.encoding.fmt.seq_len)
        check_output_dir(folder, sources.files())
        if writes_model(config):
            output_plan(config, base, trained_shapes(config, base, head_spec(sources)))
        calibration = open_calibration(config, base, reporter)
        data = load_datasets(config, base, sources, reporter)
        opened.callback(data.close)
        work = training_work(config, base, data, train_settings(config, data))
        backend = open_backend(training_wish(config.training), work, reporter)
        opened.callback(backend.close)
        signal = None if distillation is None else distillation.signal(backend, data, reporter)
        run = assemble(config, base, data, backend, calibration, distillation, signal)
        state = TrainState() if checkpoint is None else resume(checkpoint, run.optimizer, run.record, reporter)
        if overwrite:
            clear_output_dir(folder)
        return _train_and_export(run, state, reporter)


def model_files(config: Config) -> list[Path]:
    """The model files that are read; those of the data are known when they are opened."""
    merged = [] if config.merge is None else [model.path for model in config.merge.models or ()]
    taught = [] if config.distill is None else [one.path for one in config.distill.all_teachers]
    return [Path(file) for file in (config.model.path, config.model.tokenizer, *merged, *taught) if file is not None]


def find_checkpoint(config: Config, resume_from: ResumeFrom, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint to go on from, or None for a new run. The folder must hold no run but the one that goes on.

    Raises:
        OutputError: there is another run.
        FormatError: there is no whole checkpoint.
        ConfigError: it was made with another configuration.
    """
    folder = Path(config.training.output_dir)
    if resume_from is None:
        _require_new(folder)
        return None
    found = _checkpoint(folder, resume_from, reporter)
    require_same_config(found, config.model_dump(mode="json"))
    return found


def _checkpoint(folder: Path, resume_from: Path | str, reporter: Reporter) -> Checkpoint:
    checkpoints = folder / CHECKPOINTS
    if resume_from != "auto":
        if Path(resume_from).resolve().parent != checkpoints.resolve():
            _require_new(folder)
        return read_checkpoint(Path(resume_from))
    found = latest_checkpoint(checkpoints, reporter)
    if found is None:
        raise FormatError(
            "there is no checkpoint to go on from", where=str(checkpoints), hint="start the run without --resume"
        )
    return found


def _require_new(folder: Path) -> None:
    CheckpointStore(folder / CHECKPOINTS, RunRecord({}, {}, {})).require_empty()
    require_no_results(folder)


def _train_and_export(run: Run, state: TrainState, reporter: Reporter) -> RunResult:
    make_output_dir(run.folder)
    reporter.emit(_run_started(run, state))
    _write_resolved(run, reporter)
    with ExitStack() as opened, compiling_said("the model", reporter), StopSignal() as stop:
        train: BatchSource = run.data.train_loader
        if run.backend.runs_ahead:
            train = Prefetched(train)
            opened.callback(train.close)
        trainer = Trainer(
            learner=run.learner,
            optimizer=run.optimizer,
            schedule=build_schedule(run.config.optimizer, run.settings.total_steps),
            train=train,
            settings=run.settings,
            val=run.data.val_loader,
            checkpoints=CheckpointStore(run.folder / CHECKPOINTS, run.record, keep_last=run.config.training.keep_last),
            metrics=MetricsFile(run.folder / METRICS),
            reporter=reporter,
            stop=stop,
            state=state,
            callbacks=_callbacks(run, state, reporter),
        )
        try:
            result = trainer.run()
        except TrainingError as error:
            if damaged := run.base.non_finite_tensors():
                error.hint = f"the base model is damaged: {', '.join(damaged[:3])} holds numbers that are not finite"
            raise
    for note in run.backend.notes():
        reporter.emit(Notice("info", note))
    result_step = _return_to_best(run, result, reporter)
    model, adapter, head = _export(run, result_step, reporter)
    end = result.state
    train_loss = math.nan if end.train_loss is None else end.train_loss
    reporter.emit(Finished(end.step, result.reason, train_loss, end.val_loss, result.seconds, result_step))
    return RunResult(result.reason, end.step, end.train_loss, end.val_loss, model, adapter, head, result.seconds)


def _callbacks(run: Run, state: TrainState, reporter: Reporter) -> list[Callback]:
    section = qat_section(run.config)
    if section is None or run.quantization is None:
        return []
    return [QuantizationSwitch(run.quantization, section.warmup, state.step, reporter)]


def _run_started(run: Run, state: TrainState) -> RunStarted:
    trainable = run.model.trainable()
    return RunStarted(
        model=run.base.name,
        architecture=run.base.spec.architecture,
        parameters=run.model.count_values(),
        trainable_parameters=sum(tensor.data.size for tensor in trainable.values()),
        train_examples=run.data.train_examples,
        val_examples=run.data.val_examples,
        total_steps=run.settings.total_steps,
        first_step=state.step,
        threads=run.backend.n_threads,
        device=run.backend.name,
        output_dir=run.folder,
        objective="" if run.distillation is None else run.distillation.describe(),
    )


def _write_resolved(run: Run, reporter: Reporter) -> None:
    path, content = run.folder / RESOLVED, resolved_yaml(run.config).encode()
    with atomic_file(path) as file:
        file.write(content)
    reporter.emit(Saved("config", path, len(content)))


def _return_to_best(run: Run, result: TrainResult, reporter: Reporter) -> int:
    """With early stopping, the best weights are the result, not the last. Returns the step they are of."""
    best, state = result.best_checkpoint, result.state
    if run.settings.early_stopping is None or state.best_step is None or state.best_step == state.step:
        return state.step
    place = f"step {state.best_step}, validation loss {state.best_val_loss:.4f}"
    if best is None:
        message = f"the best checkpoint ({place}) is gone; the result is that of the last step, {state.step}"
        reporter.emit(Notice("warning", message))
        return state.step
    restore_parameters(read_checkpoint(best), run.optimizer.parameters)
    reporter.emit(Notice("info", f"the result is the best checkpoint: {place}"))
    return state.best_step


def _export(run: Run, step: int, reporter: Reporter) -> tuple[Path | None, Path | None, Path | None]:
    """Model, adapter and head. If that fails the training is not lost: the last checkpoint leads straight back here."""
    try:
        return write_model(run, step, reporter), _export_adapter(run, reporter), _export_head(run, reporter)
    except (FormatError, OutputError) as error:
        again = "then run the same command with --resume; the training itself is done and saved"
        error.hint = f"{error.hint}; {again}" if error.hint else again
        raise


def _export_adapter(run: Run, reporter: Reporter) -> Path | None:
    lora = run.config.lora
    if lora is None or run.config.output.adapter == "none":
        return None
    path = run.folder / ADAPTER
    pairs = adapter_pairs(run.model)
    kind = run.config.output.adapter_type.upper()
    size = write_adapter(path, run.base.spec.architecture, pairs, lora.alpha, run.provenance(), kind)
    reporter.emit(Saved("adapter", path, size))
    return path


def _export_head(run: Run, reporter: Reporter) -> Path | None:
    if not isinstance(run.model, SequenceModel):
        return None
    path = run.folder / HEAD_FILE
    reporter.emit(Saved("head", path, write_head(path, run.model, run.provenance())))
    return path
