"""The resource side of a plan: the requests that the memory and the disk estimate are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from entrenar_core.config.root import Config
from entrenar_core.data.cache import WORTH_CACHING
from entrenar_core.gguf.names import MODULES, ROPE_FREQS
from entrenar_core.lora.inject import target_modules
from entrenar_core.model.heads import HEAD, HeadSpec
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.packed import is_packable
from entrenar_core.stages.assemble import head_spec
from entrenar_core.stages.base_model import BaseModel, lora_settings, packed_type
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.disk import DiskEstimate, DiskRequest, estimate_disk
from entrenar_core.stages.dry_pass import BatchShape
from entrenar_core.stages.estimate import MemoryRequest, batch_shapes
from entrenar_core.stages.export import NEW_TYPE, planned_types
from entrenar_core.train.settings import TrainSettings

Shapes = dict[str, tuple[int, ...]]


def memory_request(config: Config, base: BaseModel, data: DataSets, settings: TrainSettings) -> MemoryRequest:
    """What the memory of this run depends on."""
    held = {id(one.examples): one.examples for one in (data.train, data.val) if one is not None}.values()
    return MemoryRequest(
        spec=base.spec,
        optimizer=config.optimizer,
        batches=batch_shapes(data.train_loader, settings.total_steps * settings.grad_accum),
        evaluated=_largest_evaluated(data),
        lora=None if config.lora is None else lora_settings(config),
        checkpoint_activations=config.training.activation_checkpointing,
        threads=config.training.threads,
        packed_type=packed_type(config),
        head=head_spec(data.opened),
        tensors={} if base.file is None else base.file.tensors,
        base_bytes=_n_bytes(_mapped_files(base)),
        vocab_size=base.tokenizer.vocab_size,
        merged_models=0 if base.merge is None else 1 + len(base.merge.others),
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


def trained_shapes(config: Config, base: BaseModel, head: HeadSpec | None) -> Shapes:
    """Name and shape of every tensor that is trained."""
    weights = _weights(base)
    if config.lora is not None:
        return _adapter_shapes(config.lora.rank, lora_settings(config).targets, weights) | _head_shapes(base, head)
    if head is not None:
        weights.pop("output.weight", None)
    return weights | _head_shapes(base, head)


def _head_shapes(base: BaseModel, head: HeadSpec | None) -> Shapes:
    if head is None:
        return {}
    return {f"{HEAD}.weight": (head.n_outputs, base.spec.hidden_size), f"{HEAD}.bias": (head.n_outputs,)}


def _adapter_shapes(rank: int, targets: Sequence[str] | str, weights: Shapes) -> Shapes:
    """A [R, in] and B [out, R] of every layer that the targets name."""
    layers = {name: shape for name, shape in weights.items() if name.startswith("blk.") and _is_module(name)}
    chosen = target_modules(targets, {name.split(".")[-2] for name in layers})
    adapters: Shapes = {}
    for name, (n_out, n_in) in layers.items():
        if name.split(".")[-2] in chosen:
            adapters[f"{name}.lora_a"], adapters[f"{name}.lora_b"] = (rank, n_in), (n_out, rank)
    return adapters


def _weights(base: BaseModel) -> Shapes:
    if base.file is None:
        return dict(expected_shapes(base.spec))
    return {name: tuple(info.shape) for name, info in base.file.tensors.items() if name != ROPE_FREQS}


def _is_module(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in MODULES.values()


def disk_of(
    config: Config, base: BaseModel, data: DataSets, settings: TrainSettings, trained: Mapping[str, tuple[int, ...]]
) -> DiskEstimate:
    """What the files of this run take; a checkpoint is written before the oldest one goes."""
    output, lora = config.output, config.lora
    writes_model = output.gguf and (lora is None or output.merge_adapter)
    types = planned_types(_sources(base), _changed(config, base, trained), output.type) if writes_model else {}
    is_saved_often = settings.save_every is not None or settings.save_best
    kept = config.training.keep_last + 1 if is_saved_often else 1
    return estimate_disk(
        DiskRequest(
            trained=trained,
            optimizer=config.optimizer,
            output_dir=Path(config.training.output_dir),
            checkpoints=kept + (1 if settings.save_best else 0),
            model_types=types,
            model_header=_header_bytes(base),
            writes_adapter=lora is not None and output.adapter != "none",
            lines=settings.total_steps,
            cached_tokens=_cached_tokens(config, data),
        )
    )


def _cached_tokens(config: Config, data: DataSets) -> int:
    """Tokens that the run keeps in the cache."""
    n_bytes = sum(one.source.n_bytes for one in data.opened.train)
    if data.train is None or not config.data.cache or n_bytes < WORTH_CACHING:
        return 0
    return len(data.train.examples.tokens)


def _sources(base: BaseModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor that training starts from."""
    if base.file is not None:
        return {name: (tuple(info.shape), info.type_name) for name, info in base.file.tensors.items()}
    return {name: (shape, NEW_TYPE if len(shape) > 1 else "F32") for name, shape in expected_shapes(base.spec).items()}


def _changed(config: Config, base: BaseModel, trained: Iterable[str]) -> set[str]:
    """The tensors of the model that come out different: trained, merged, or held in other blocks than the file's."""
    if base.file is not None and base.merge is not None and base.merge.others:
        return {name for name in base.file.tensors if name != ROPE_FREQS}
    return _held_otherwise(config, base) | {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in trained}


def _held_otherwise(config: Config, base: BaseModel) -> set[str]:
    packed = packed_type(config)
    if packed is None or base.file is None:
        return set()
    tensors = base.file.tensors.items()
    return {name for name, info in tensors if info.type_name != packed and is_packable(info, packed)}


def _header_bytes(base: BaseModel) -> int:
    """Metadata of the model file, tokens included: that of the base file, or a guess from the vocabulary."""
    if base.file is None:
        return 40 * base.tokenizer.vocab_size
    return max(0, _n_bytes(base.file.paths) - sum(info.n_bytes for info in base.file.tensors.values()))
