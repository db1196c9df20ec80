"""How much disk a run will take, file by file, and how much there is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.data.free_disk import free_disk_bytes

METRICS_LINE = 320
"""Bytes of one line of metrics.jsonl."""

CHECKPOINT_OVERHEAD = 16 << 10
"""The manifest of a checkpoint, with the whole config in it, and the headers of its two files."""

HEADER_PER_TENSOR = 128

BYTES_PER_CACHED_TOKEN = 5


@dataclass(frozen=True)
class DiskRequest:
    """What the files of a run depend on.

    Attributes:
        trained: name and shape of the trained tensors (A and B with LoRA).
        optimizer: the section of the config.
        output_dir: of the run.
        checkpoints: how many can lie there at once: `keep_last`, the best one, and the one being written.
        model_types: name, shape and type of each tensor of model.gguf; empty: none is written.
        model_header: bytes of its metadata.
        adapter_type: of adapter.gguf, F32 or F16; None: none is written.
        lines: steps and evaluations.
        cached_tokens: of the data set, where it is cached.
        projections: shapes of what is trained beside the model and not part of it, by name.
        teacher_cache: bytes of the teachers' predictions that are missing on the disk.
    """

    trained: Mapping[str, tuple[int, ...]]
    optimizer: OptimizerConfig
    output_dir: Path
    checkpoints: int
    model_types: Mapping[str, tuple[tuple[int, ...], str]]
    model_header: int = 0
    adapter_type: str | None = None
    lines: int = 0
    cached_tokens: int = 0
    projections: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher_cache: int = 0


@dataclass(frozen=True)
class DiskEstimate:
    """The parts as names and bytes; `free` is what the file system of the output folder has left (None: unknown)."""

    parts: tuple[tuple[str, int], ...]
    free: int | None

    @property
    def total(self) -> int:
        return sum(n_bytes for _, n_bytes in self.parts)

    @property
    def fits(self) -> bool:
        """True also where the file system does not say."""
        return self.free is None or self.total <= self.free


def estimate_disk(request: DiskRequest) -> DiskEstimate:
    """The most that the files of a run take together."""
    in_checkpoints = {**request.trained, **request.projections}
    trained = sum(4 * math.prod(shape) for shape in in_checkpoints.values())
    one = trained * (1 + optimizer_arrays(request.optimizer)) + CHECKPOINT_OVERHEAD
    headers = HEADER_PER_TENSOR * len(in_checkpoints)
    parts = [(f"checkpoints (up to {request.checkpoints})", request.checkpoints * (one + headers))]
    if request.model_types:
        parts.append(("model.gguf", request.model_header + model_bytes(request.model_types)))
    if request.adapter_type is not None:
        shapes = {name: (shape, request.adapter_type) for name, shape in request.trained.items()}
        parts.append(("adapter.gguf", model_bytes(shapes)))
    parts.append(("metrics.jsonl", METRICS_LINE * request.lines))
    if request.cached_tokens:
        parts.append(("token cache", BYTES_PER_CACHED_TOKEN * request.cached_tokens))
    if request.teacher_cache:
        parts.append(("teacher cache", request.teacher_cache))
    return DiskEstimate(tuple(parts), free_disk_bytes(request.output_dir))


def optimizer_arrays(optimizer: OptimizerConfig) -> int:
    """State arrays of the size of the parameters."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def model_bytes(tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> int:
    """Bytes of the tensors of a GGUF file and of the table that lists them."""
    total = 0
    for shape, type_name in tensors.values():
        rows, row = math.prod(shape[:-1]), shape[-1] if shape else 1
        total += rows * TYPE_BY_NAME[type_name].row_bytes(row) + HEADER_PER_TENSOR
    return total
