"""How much memory a training run will take at its peak, part by part, from the shapes alone.

What the engine itself holds is found by `dry_pass`, which is exact. The rest is arithmetic (weights, mapped files, the
data set) and a few measured constants (Python and its libraries, the tokenizer, BLAS buffers). The result is held
against ``ru_maxrss`` of real runs in the tests and in ``python -m benchmarks memory_estimate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.lora.inject import LoRASettings
from entrenar_core.model.heads import HeadSpec
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.packed import is_block_matrix
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.dry_pass import BatchShape, PassMemory, Teach, described, dry_pass

MIB = 1 << 20

LIBRARIES = 270 * MIB
"""Python, NumPy, numba with LLVM, pyarrow, the tokenizer library and our kernels once they are loaded."""

CUDA_LIBRARIES = 700 * MIB
"""CUDA's context on the host with CuPy, cuBLAS and cuDNN. Taken from what others report, not measured."""

BYTES_PER_TOKEN_NAME = 780
"""One entry of a vocabulary in our tables and those of the tokenizer library: 650 to 930 over seven real vocabularies,
without the pieces of the file that `mapped` counts."""

BLAS_PER_THREAD = 16 * MIB
"""The most of its packing buffer that OpenBLAS was seen to touch on one thread."""

READING = 64 * MIB
"""Arrow's buffers, the sample that types are inferred from, and the tokenizer's caches; small files need less."""

READING_PER_BYTE = 10
"""Bytes of text and its tokens in flight for one byte of a small file."""

BYTES_PER_TOKEN = 5
BYTES_PER_EXAMPLE = 48
"""A token is an int32 and a flag; an example has an offset, and its place in the order and the rows of an epoch."""

MERGE_COPIES, MERGE_COPIES_PER_MODEL = 6, 1
"""Float32 copies of one tensor while models are merged: base, start, result, what is summed and what is put on it, and
for each model its change. The methods work on pieces, whatever else they make."""

MAPPED, CACHED, PREDICTED = "base file, mapped", "token cache, mapped", "teacher cache, mapped"
"""Pages of files. They count as resident, but the system may drop them when it needs the room."""


TEACHERS = "teachers, mapped"
"""Files whose every page is read at each step, so they count as needed."""


@dataclass(frozen=True)
class MemoryRequest:
    """What the memory of a run depends on.

    Attributes:
        spec: sizes of the model.
        optimizer: the section of the config.
        batches: rows and width of the largest batches, in the order in which they come; one is repeated by itself.
        evaluated: rows and width of the largest validation batches.
        lora: settings of the adapters; None: all weights are trained.
        checkpoint_activations: `training.activation_checkpointing`.
        threads: `training.threads`.
        held_as: the block types that matrices of a frozen base are held in, by name; the others are float32.
        head: of a run that trains a class or a number.
        tensors: of the base file; empty for a new model.
        base_bytes: size of the base model's files; 0 for a new model.
        vocab_size: tokens of the tokenizer; None: as many as the embedding has.
        merged_models: models that the result is merged from, the trained one included; 0: no merge.
        rounded_bytes: of the rounded weights of a run that trains with quantized weights.
        data_tokens, data_examples, data_bytes: of training and validation data; 0 tokens for streamed data.
        data_is_cached: tokenized data lie in the cache's files, which are mapped.
        teach: puts the teachers of a distillation beside the model.
        teacher_bytes: size of the files of the teachers that run; they are used where they lie.
        base_is_teacher: the base file is one of them.
        teacher_cache_bytes: of the teachers' predictions that are kept on disk.
        on_device: weights, state, gradients and activations are in the memory of a GPU (see `device_memory`).
    """

    spec: DecoderSpec
    optimizer: OptimizerConfig
    batches: Sequence[BatchShape]
    evaluated: Sequence[BatchShape] = ()
    lora: LoRASettings | None = None
    checkpoint_activations: bool = False
    threads: int | None = None
    held_as: Mapping[str, str] = field(default_factory=dict)
    head: HeadSpec | None = None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    base_bytes: int = 0
    vocab_size: int | None = None
    merged_models: int = 0
    rounded_bytes: int = 0
    data_tokens: int = 0
    data_examples: int = 0
    data_bytes: int = 0
    data_is_cached: bool = False
    teach: Teach | None = None
    teacher_bytes: int = 0
    base_is_teacher: bool = False
    teacher_cache_bytes: int = 0
    on_device: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """The parts of the peak, as names and bytes, in the order in which they come into being."""

    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Bytes resident at the peak."""
        return sum(n_bytes for _, n_bytes in self.parts)

    @property
    def needed(self) -> int:
        """Bytes that must be free for the run: the total without pages that the system may drop."""
        return sum(n_bytes for name, n_bytes in self.parts if name not in (MAPPED, CACHED, PREDICTED))


def estimate_memory(request: MemoryRequest) -> MemoryEstimate:
    """The peak resident memory of a whole run: opening, steps, checkpoints, export.

    Raises:
        ConfigError, ModelError: LoRA targets that name no layer.
        MemoryError: not even the address space for it can be had.
    """
    tensors = all_tensors(request)
    if request.on_device:
        return _beside_a_device(request, tensors)
    held = held_by_engine(request, tensors, request.held_as)
    weights, in_place = weight_bytes(tensors, request.held_as)
    return MemoryEstimate(
        (
            ("Python and libraries", LIBRARIES),
            ("tokenizer", BYTES_PER_TOKEN_NAME * (request.vocab_size or request.spec.vocab_size)),
            *_mapped_parts(request, in_place),
            *_data_parts(request),
            ("weights", weights + in_place),
            *engine_parts(held, request, _packing_bytes(held, tensors)),
            ("export", _export_bytes(request, tensors)),
        )
    )


def _beside_a_device(request: MemoryRequest, tensors: Mapping[str, TensorInfo]) -> MemoryEstimate:
    """What the host holds of a run whose arrays are on a GPU: one weight at a time passes through it."""
    largest = max(4 * info.n_values for info in tensors.values())
    return MemoryEstimate(
        (
            ("Python and libraries", LIBRARIES + CUDA_LIBRARIES),
            ("tokenizer", BYTES_PER_TOKEN_NAME * (request.vocab_size or request.spec.vocab_size)),
            *_mapped_parts(request, 0),
            *_data_parts(request),
            ("weights on their way", 2 * largest),
            ("export", _export_bytes(request, tensors)),
        )
    )


def _mapped_parts(request: MemoryRequest, in_place: int) -> tuple[tuple[str, int], ...]:
    """Pages of files: of the base without weights that are used `in_place`, of the teachers and of what they said."""
    of_base = 0 if request.base_is_teacher else max(0, request.base_bytes - in_place)
    of_teachers = max(0, request.teacher_bytes - in_place) if request.base_is_teacher else request.teacher_bytes
    parts = ((MAPPED, of_base), (TEACHERS, of_teachers), (PREDICTED, request.teacher_cache_bytes))
    return tuple(part for part in parts if part[1] or part[0] == MAPPED)


def held_by_engine(
    request: MemoryRequest,
    tensors: Mapping[str, TensorInfo],
    held_as: Mapping[str, str],
    device_dtype: str | None = None,
) -> PassMemory:
    """What the engine holds with these weights; on a device, whose activations are of `device_dtype`, or the CPU."""
    return dry_pass(
        request.spec,
        request.optimizer,
        list(request.batches) * (2 if len(request.batches) == 1 else 1),
        shapes={name: info.shape for name, info in tensors.items()},
        evaluated=request.evaluated,
        lora=request.lora,
        held_as=held_as,
        head=request.head,
        checkpoint_activations=request.checkpoint_activations,
        teach=request.teach,
        threads=request.threads,
        device_dtype=device_dtype,
    )


def engine_parts(held: PassMemory, request: MemoryRequest, library_buffers: int = 0) -> tuple[tuple[str, int], ...]:
    """What the engine holds beside the weights; `library_buffers` are those of a library, in bytes."""
    return (
        *((("quantized weights", request.rounded_bytes),) if request.rounded_bytes else ()),
        *((("adapters", held.adapters),) if request.lora is not None else ()),
        ("optimizer state", held.optimizer),
        ("gradients", held.gradients),
        ("activations", held.activations),
        ("work buffers", held.work + library_buffers),
    )


def all_tensors(request: MemoryRequest) -> dict[str, TensorInfo]:
    """All weights of the model; the factors of RoPE are a constant and no weight."""
    if not request.tensors:
        return {name: described(name, shape) for name, shape in expected_shapes(request.spec).items()}
    return {name: info for name, info in request.tensors.items() if name != ROPE_FREQS}


class ShapedSource(Protocol):
    """Batches whose shapes are known before they are made; the loaders of `entrenar_core.data` are such."""

    def shapes(self, epoch: int) -> np.ndarray: ...


def batch_shapes(source: ShapedSource, n_batches: int, most: int = 32) -> list[BatchShape]:
    """Shapes of the first `n_batches` batches of a run, in order; of more than `most`, the largest one and some at even
    distances.

    Rows that are not packed have many widths, and buffers of one width do not serve the next, so the order matters.
    """
    shapes = source.shapes(0)[:n_batches]
    largest = int(np.argmax(shapes[:, 0] * shapes[:, 1]))
    step = -(-len(shapes) // most)
    chosen = sorted({largest, *range(0, len(shapes), step)})
    return [(int(rows), int(width)) for rows, width in shapes[chosen]]


def weight_bytes(tensors: Mapping[str, TensorInfo], held_as: Mapping[str, str]) -> tuple[int, int]:
    """Bytes of the weights in memory of their own, and of those that are used where they lie in the mapped file."""
    own = in_place = 0
    for name, info in tensors.items():
        held = held_as.get(name)
        if held is None:
            own += 4 * info.n_values
        elif info.type_name == held:
            in_place += info.n_bytes
        else:
            own += tensor_bytes(info.shape, TYPE_BY_NAME[held])
    return own, in_place


def _packing_bytes(held: PassMemory, tensors: Mapping[str, TensorInfo]) -> int:
    """What OpenBLAS packs the largest weight into."""
    return held.threads * min(BLAS_PER_THREAD, max(4 * info.n_values for info in tensors.values()))


def _data_parts(request: MemoryRequest) -> tuple[tuple[str, int], ...]:
    tokens = BYTES_PER_TOKEN * request.data_tokens
    data = min(READING, READING_PER_BYTE * request.data_bytes) + BYTES_PER_EXAMPLE * request.data_examples
    return (("data", data), (CACHED, tokens)) if request.data_is_cached else (("data", data + tokens),)


def _export_bytes(request: MemoryRequest, tensors: Mapping[str, TensorInfo]) -> int:
    """What writing the result needs beyond what is there: one tensor is merged and checked at a time."""
    changed = [info.n_values for info in tensors.values() if request.lora is None or is_block_matrix(info)]
    largest = max(changed)
    if request.merged_models:
        return 4 * largest * (MERGE_COPIES + MERGE_COPIES_PER_MODEL * request.merged_models)
    return 12 * largest if request.lora is not None else largest  # W, B·A and its multiple; or one flag a value
