"""The parts of a run put together: model, head, optimizer, data and settings, once all of them are known to fit.

Training and the dry run both start here, so that what is planned is what is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import entrenar_core
from entrenar_core.backend.base import Backend
from entrenar_core.config.resolved import config_hash
from entrenar_core.config.root import Config
from entrenar_core.data.task_columns import TARGET_ROLES
from entrenar_core.distill.teachers import TeacherSignal
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HeadSpec, SequenceModel, new_head
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.build import build_optimizer
from entrenar_core.quant.fake import FakeQuantization, fake_quantize_weights
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.build_model import build_model
from entrenar_core.stages.dataset import DataSets, OpenedData
from entrenar_core.stages.distill import Distillation
from entrenar_core.stages.export import Metadata
from entrenar_core.stages.qat import check_warmup, qat_section
from entrenar_core.stages.qat_weights import rounded_encodings
from entrenar_core.stages.run_calibration import RunCalibration
from entrenar_core.train.checkpoint import RunRecord
from entrenar_core.train.environment import describe_environment
from entrenar_core.train.parts import Learner, steps_of_epochs
from entrenar_core.train.settings import EarlyStopping, TrainSettings


@dataclass(frozen=True)
class Run:
    """Everything that one run consists of.

    `model` is the backbone with its head where a head is trained, `learner` what the loop trains: the model, or the
    model with its teachers. `quantization`: of a run that trains with quantized
    weights. `calibration`: of one whose errors are weighed. `distillation`: of one with teachers.
    """

    config: Config
    base: BaseModel
    data: DataSets
    backend: Backend
    model: LanguageModel | SequenceModel
    learner: Learner
    optimizer: Optimizer
    settings: TrainSettings
    record: RunRecord
    folder: Path
    quantization: FakeQuantization | None = None
    calibration: RunCalibration | None = None
    distillation: Distillation | None = None

    @property
    def backbone(self) -> LanguageModel:
        return backbone_of(self.model)

    def provenance(self) -> Metadata:
        """Keys that say where a file comes from; equal runs write equal keys."""
        found = {
            "entrenar.version": entrenar_core.__version__,
            "entrenar.config_sha256": config_hash(self.config),
            "entrenar.base_sha256": self.record.inputs["model"],
            "entrenar.data_digest": self.record.inputs["data.train"],
        }
        return [(key, MetadataValue.string(value)) for key, value in found.items()]


def backbone_of(model: LanguageModel | SequenceModel) -> LanguageModel:
    """The model without its head."""
    return model.backbone if isinstance(model, SequenceModel) else model


def assemble(
    config: Config,
    base: BaseModel,
    data: DataSets,
    backend: Backend,
    calibration: RunCalibration | None = None,
    distillation: Distillation | None = None,
    signal: TeacherSignal | None = None,
) -> Run:
    """Build the model and all that goes with it.

    Args:
        config: of the run.
        base: what it starts from.
        data: what it learns from.
        backend: where it computes.
        calibration: what errors are weighed by; a dry run leaves it out, because measuring takes time.
        distillation: what is learned from besides the data.
        signal: what its teachers say; None: they run.

    Raises:
        ModelError, FormatError, ConfigError: the model cannot be built as the config says.
    """
    backbone = build_model(config, base, backend)
    head = head_spec(data.opened)
    model = backbone if head is None else new_head(backbone, head, config.training.seed)
    learner: Learner = model
    if distillation is not None:
        source = distillation.running(backend) if signal is None else signal
        learner = distillation.learner(backbone, source, config, base.tokenizer)
    taught = {} if distillation is None else distillation.digests()
    calibrated = {} if calibration is None else {"quantize.calibration": calibration.digest()}
    record = RunRecord(
        config=config.model_dump(mode="json"),
        inputs={**base.digests(), **data.digests(), **taught, **calibrated},
        environment=describe_environment(backend=backend.name, threads=backend.n_threads, device=backend.environment()),
    )
    optimizer = build_optimizer(config.optimizer, learner.trainable())
    settings = train_settings(config, data)
    folder = Path(config.training.output_dir)
    quantization = _quantization(config, base, model, head, calibration)
    return Run(
        config,
        base,
        data,
        backend,
        model,
        learner,
        optimizer,
        settings,
        record,
        folder,
        quantization,
        calibration,
        distillation,
    )


def _quantization(
    config: Config,
    base: BaseModel,
    model: LanguageModel | SequenceModel,
    head: HeadSpec | None,
    calibration: RunCalibration | None,
) -> FakeQuantization | None:
    """The weights that the export will round, ready to be rounded while training."""
    section = qat_section(config)
    if section is None:
        return None
    importance = {} if calibration is None else calibration.importance(backbone_of(model))
    encodings = rounded_encodings(config, base, head, importance)
    return fake_quantize_weights(model, encodings, clipped=section.gradient == "clipped")


def head_spec(opened: OpenedData) -> HeadSpec | None:
    """What the head answers; None for a language model."""
    task, labels = opened.head_task, opened.encoding.labels
    if task is None or labels is None:
        return None
    columns = opened.train[0].columns.columns
    return HeadSpec(
        task=task,
        classes=labels.classes,
        text_column=columns["text"],
        target_column=columns[TARGET_ROLES[task]],
        mean=labels.mean,
        std=labels.std,
    )


def train_settings(config: Config, data: DataSets) -> TrainSettings:
    """Length and rhythm of the run; a stream is evaluated at its end, unless the config says when."""
    training, section = config.training, qat_section(config)
    epochs, stopping = training.epochs or 1, training.early_stopping
    total_steps = training.max_steps or steps_of_epochs(data.train_loader, epochs, training.grad_accum)
    check_warmup(config, total_steps)
    return TrainSettings(
        total_steps=total_steps,
        seed=training.seed,
        grad_accum=training.grad_accum,
        grad_clip=config.optimizer.grad_clip,
        eval_every=training.eval_every or (total_steps if data.opened.streaming else None),
        save_every=training.save_every,
        save_best=training.save_every is not None or stopping is not None,
        early_stopping=None if stopping is None else EarlyStopping(stopping.patience, stopping.min_delta),
        judged_from=0 if section is None else section.warmup,
    )
