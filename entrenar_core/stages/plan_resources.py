"""The resource side of a plan: the requests that the memory and the disk estimate are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from entrenar_core.config.root import Config
from entrenar_core.data.cache import WORTH_CACHING
from entrenar_core.gguf.names import MODULES, ROPE_FREQS
from entrenar_core.lora.inject import target_modules
from entrenar_core.model.heads import HEAD, HeadSpec
from entrenar_core.model.load import expected_shapes
from entrenar_core.stages.assemble import head_spec
from entrenar_core.stages.base_model import BaseModel, lora_settings, packed_type
from entrenar_core.stages.dataset import DataSets
from entrenar_core.stages.disk import DiskEstimate, DiskRequest, estimate_disk
from entrenar_core.stages.estimate import MemoryRequest, batch_shapes
from entrenar_core.stages.export import NEW_TYPE, planned_types
from entrenar_core.train.settings import TrainSettings

Shapes = dict[str, tuple[int, ...]]


def memory_request(config: Config, base: BaseModel, data: DataSets, settings: TrainSettings) -> MemoryRequest:
    """What the memory of this run depends on."""
    held = {id(one.examples): one.examples for one in (data.train, data.val) if one is not None}.values()
    files = [file for one in (*data.opened.train, *data.opened.val) for file in one.source.files]
    batches = settings.total_steps * settings.grad_accum
    return MemoryRequest(
        spec=base.spec,
        optimizer=config.optimizer,
        batches=batch_shapes(data.train_loader, batches),
        lora=None if config.lora is None else lora_settings(config),
        checkpoint_activations=config.training.activation_checkpointing,
        threads=config.training.threads,
        packed_type=packed_type(config),
        head=head_spec(data.opened),
        tensors={} if base.file is None else base.file.tensors,
        base_bytes=0 if base.file is None else sum(path.stat().st_size for path in base.file.paths),
        vocab_size=base.tokenizer.vocab_size,
        merged_models=0 if base.merge is None else 1 + len(base.merge.others),
        data_tokens=sum(len(examples.tokens) for examples in held),
        data_examples=sum(len(examples) for examples in held),
        data_bytes=sum(file.stat().st_size for file in files),
    )


def trained_shapes(config: Config, base: BaseModel, head: HeadSpec | None) -> Shapes:
    """Name and shape of every tensor that is trained."""
    shapes = {name: shape for name, shape in _weights(base).items() if head is None or name != "output.weight"}
    heads: Shapes = {}
    if head is not None:
        heads = {f"{HEAD}.weight": (head.n_outputs, base.spec.hidden_size), f"{HEAD}.bias": (head.n_outputs,)}
    if config.lora is None:
        return shapes | heads
    available = {name.split(".")[-2] for name in shapes if name.startswith("blk.") and _is_module(name)}
    targets = target_modules(lora_settings(config).targets, available)
    rank, adapters = config.lora.rank, {}
    for name, shape in shapes.items():
        if name.startswith("blk.") and _is_module(name) and name.split(".")[-2] in targets:
            adapters[f"{name}.lora_a"], adapters[f"{name}.lora_b"] = (rank, shape[1]), (shape[0], rank)
    return adapters | heads


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
    kept = 1 if settings.save_every is None else config.training.keep_last + 1
    is_cached = config.data.cache and sum(one.source.n_bytes for one in data.opened.train) >= WORTH_CACHING
    tokens = 0 if data.train is None or not is_cached else len(data.train.examples.tokens)
    return estimate_disk(
        DiskRequest(
            trained=trained,
            optimizer=config.optimizer,
            output_dir=Path(config.training.output_dir),
            checkpoints=kept + (1 if settings.save_best else 0),
            model_types=planned_types(_sources(base), _changed(trained), output.type) if writes_model else {},
            model_header=_header_bytes(base),
            writes_adapter=lora is not None and output.adapter != "none",
            lines=settings.total_steps,
            cached_tokens=tokens,
        )
    )


def _sources(base: BaseModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor that training starts from."""
    if base.file is not None:
        return {name: (tuple(info.shape), info.type_name) for name, info in base.file.tensors.items()}
    return {name: (shape, NEW_TYPE if len(shape) > 1 else "F32") for name, shape in expected_shapes(base.spec).items()}


def _changed(trained: Iterable[str]) -> set[str]:
    """The tensors of the model that come out different."""
    return {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in trained}


def _header_bytes(base: BaseModel) -> int:
    """Metadata of the model file, tokens included: that of the base file, or a guess from the vocabulary."""
    if base.file is None:
        return 40 * base.tokenizer.vocab_size
    total = sum(path.stat().st_size for path in base.file.paths)
    return max(0, total - sum(info.n_bytes for info in base.file.tensors.values()))
