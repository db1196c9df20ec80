"""Worker: the run of a configuration in torch + transformers + peft, from our start and over our batches.

Ours gives the start weights, the batches and their order; model, loss, gradient, clipping, AdamW and schedule are
theirs. Prints one JSON object: validation losses before and after, and the loss of each step.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.hugging_face import summed_loss, twin
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.config.root import Config
from entrenar_core.data.batch import Batch
from entrenar_core.data.loader import Loader
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import load_model
from entrenar_core.stages.base_model import lora_settings, open_base
from entrenar_core.stages.dataset import DataSets, open_data
from entrenar_core.train.evaluate import mean_loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--written", type=Path, help="a GGUF that our run wrote, to be evaluated too")
    options = parser.parse_args()
    config = load_config(options.config)
    threads = config.training.threads or 2
    torch.set_num_threads(threads)
    backend = CpuBackend(threads)
    base = open_base(config, SilentReporter())
    data = open_data(config, base, SilentReporter())
    ours = base.build(config, backend)
    start = mean_loss(ours, _validation(data))
    model = twin(ours, None if config.lora is None else lora_settings(config))
    found: dict[str, Any] = {"start_ours": start.loss if start else None, "start": evaluate(model, _validation(data))}
    found["losses"] = train(model, config, data)
    found["end"] = evaluate(model, _validation(data))
    if options.written is not None:
        with GGUFFile.open(options.written) as file:
            found["written"] = evaluate(twin(load_model(file, backend)), _validation(data))
    base.close()
    backend.close()
    print(json.dumps(found))


def train(model: Any, config: Config, data: DataSets) -> list[float]:
    """The loss of each step, before its update."""
    settings, steps = config.optimizer, config.training.max_steps
    if settings.name != "adamw" or steps is None or config.training.grad_accum != 1:
        raise ValueError("the torch side knows AdamW, training.max_steps and no accumulation")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_peak(step, steps, settings))
    model.train()
    losses = []
    for batch in islice(_endless(data.train_loader), steps):
        loss = summed_loss(model, batch) / batch.n_supervised
        loss.backward()
        if settings.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def evaluate(model: Any, loader: Loader) -> float:
    """The mean loss over the supervised tokens of epoch 0."""
    model.eval()
    with torch.no_grad():
        sums = [(float(summed_loss(model, batch)), batch.n_supervised) for batch in loader.epoch(0)]
    return math.fsum(loss for loss, _ in sums) / sum(tokens for _, tokens in sums)


def _share_of_peak(step: int, steps: int, settings: OptimizerConfig) -> float:
    """A warm-up that begins above zero, then half a cosine down to zero."""
    if settings.schedule != "cosine" or settings.min_lr_ratio:
        raise ValueError("the torch side knows a cosine to zero")
    warmup = settings.warmup if isinstance(settings.warmup, int) else math.ceil(round(settings.warmup * steps, 6))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _endless(loader: Loader) -> Iterator[Batch]:
    return chain.from_iterable(loader.epoch(epoch) for epoch in count())


def _validation(data: DataSets) -> Loader:
    if data.val_loader is None:
        raise ValueError("the configuration names no validation data")
    return data.val_loader


if __name__ == "__main__":
    main()
