"""What a training run asks of a device, and how much it has to compute there."""

from __future__ import annotations

from entrenar_core.backend.gpu_worth import Work
from entrenar_core.backend.select import DeviceWish
from entrenar_core.config.root import Config
from entrenar_core.config.training import Training
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.device import total_size
from entrenar_core.train.settings import TrainSettings


def training_wish(training: Training) -> DeviceWish:
    return DeviceWish(training.device, training.threads, training.compute_dtype, training.deterministic)


def training_work(config: Config, base: BaseModel, data: DataSets, settings: TrainSettings) -> Work:
    """Of a training run: its steps, over batches of the first epoch's mean size. Teachers and evaluations are left
    out."""
    a_batch = float(data.train_loader.shapes(0).prod(axis=1).mean())
    parameters = base.n_parameters()
    return Work(
        kind="train",
        parameters=parameters,
        n_bytes=4 * parameters if base.file is None else total_size(base.file.paths),
        tokens=round(settings.total_steps * settings.grad_accum * a_batch),
        adapters_only=config.lora is not None,
    )
