"""The resource side of a plan: the requests that the memory and the disk estimate are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from entrenar_core.config.root import Config
from entrenar_core.data.cache import WORTH_CACHING
from entrenar_core.stages.assemble import head_spec
from entrenar_core.stages.base_model import BaseModel, lora_settings
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.disk import DiskEstimate, DiskRequest, estimate_disk
from entrenar_core.stages.distill import Distillation
from entrenar_core.stages.distill_plan import missing_cache, projections, running_files, teach, written_shapes
from entrenar_core.stages.dry_pass import BatchShape
from entrenar_core.stages.estimate import MemoryRequest, batch_shapes
from entrenar_core.stages.output_plan import output_plan, sources_of, writes_model
from entrenar_core.stages.plan_types import DistillPlan
from entrenar_core.stages.qat_weights import rounded_bytes
from entrenar_core.train.settings import TrainSettings

SAMPLED_BATCHES = 8
"""Batches whose prompts tell how large the ones are that a student writes."""


def memory_request(
    config: Config,
    base: BaseModel,
    data: DataSets,
    settings: TrainSettings,
    distillation: Distillation | None = None,
    plan: DistillPlan | None = None,
) -> MemoryRequest:
    """What the memory of this run depends on."""
    request = _without_teachers(config, base, data, settings)
    if distillation is None or plan is None:
        return request
    n_batches = min(SAMPLED_BATCHES, data.train_loader.batches_per_epoch(0))
    batches = [data.train_loader.batch(0, index) for index in range(n_batches)]
    written = written_shapes(distillation.on_policy(base.tokenizer), base.spec.context_length, batches)
    files = running_files(distillation, plan)
    of_base = {path.resolve() for path in (() if base.file is None else base.file.paths)}
    return replace(
        request,
        batches=[*request.batches, *written],
        teach=teach(config, base, distillation),
        teacher_bytes=_n_bytes(files),
        base_is_teacher=bool(of_base & files),
        teacher_cache_bytes=0 if plan.cache is None else plan.cache.n_bytes or 0,
    )


def _without_teachers(config: Config, base: BaseModel, data: DataSets, settings: TrainSettings) -> MemoryRequest:
    held = {id(one.examples): one.examples for one in (data.train, data.val) if one is not None}.values()
    return MemoryRequest(
        spec=base.spec,
        optimizer=config.optimizer,
        batches=batch_shapes(data.train_loader, settings.total_steps * settings.grad_accum),
        evaluated=_largest_evaluated(data),
        lora=None if config.lora is None else lora_settings(config),
        checkpoint_activations=config.training.activation_checkpointing,
        threads=config.training.threads,
        held_as=base.held_as,
        head=head_spec(data.opened),
        tensors={} if base.file is None else base.file.tensors,
        base_bytes=_n_bytes(_mapped_files(base)),
        vocab_size=base.tokenizer.vocab_size,
        merged_models=0 if base.merge is None else 1 + len(base.merge.others),
        rounded_bytes=rounded_bytes(config, base, head_spec(data.opened)),
        data_tokens=sum(len(examples.tokens) for examples in held),
        data_examples=sum(len(examples) for examples in held),
        data_bytes=_n_bytes(data.opened.files()),
        data_is_cached=_cached_tokens(config, data) > 0,
    )


def _largest_evaluated(data: DataSets) -> list[BatchShape]:
    """The largest batch of the validation set."""
    if data.val_loader is None:
        return []
    rows, width = max(data.val_loader.shapes(0).tolist(), key=lambda shape: shape[0] * shape[1])
    return [(rows, width)]


def _mapped_files(base: BaseModel) -> list[Path]:
    """The model files whose pages are touched: the base, and what the result is merged with."""
    merged = () if base.merge is None else base.merge.others
    files = [file for file in (base.file, *(other.file for other in merged)) if file is not None]
    return [path for file in files for path in file.paths]


def _n_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def disk_of(
    config: Config,
    base: BaseModel,
    data: DataSets,
    settings: TrainSettings,
    trained: Mapping[str, tuple[int, ...]],
    distillation: Distillation | None = None,
    plan: DistillPlan | None = None,
) -> DiskEstimate:
    """What the files of this run take; a checkpoint is written before the oldest one goes."""
    output, lora, sources = config.output, config.lora, sources_of(base)
    types = output_plan(config, base, trained).types if writes_model(config) else {}
    is_saved_often = settings.save_every is not None or settings.save_best
    kept = config.training.keep_last + 1 if is_saved_often else 1
    return estimate_disk(
        DiskRequest(
            trained=trained,
            optimizer=config.optimizer,
            output_dir=Path(config.training.output_dir),
            checkpoints=kept + (1 if settings.save_best else 0),
            model_types={name: (sources[name][0], type_name) for name, type_name in types.items()},
            model_header=_header_bytes(base),
            adapter_type=output.adapter_type.upper() if lora is not None and output.adapter != "none" else None,
            lines=settings.total_steps,
            cached_tokens=_cached_tokens(config, data),
            projections=projections(base, distillation),
            teacher_cache=missing_cache(plan),
        )
    )


def _cached_tokens(config: Config, data: DataSets) -> int:
    """Tokens that the run keeps in the cache."""
    n_bytes = sum(one.source.n_bytes for one in data.opened.train)
    if data.train is None or not config.data.cache or n_bytes < WORTH_CACHING:
        return 0
    return len(data.train.examples.tokens)


def _header_bytes(base: BaseModel) -> int:
    """Metadata of the model file, tokens included: that of the base file, or a guess from the vocabulary."""
    if base.file is None:
        return 40 * base.tokenizer.vocab_size
    return max(0, _n_bytes(base.file.paths) - sum(info.n_bytes for info in base.file.tensors.values()))
