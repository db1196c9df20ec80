"""How much memory a training run will take at its peak, part by part, from the shapes alone.

What the engine itself holds is found by `dry_pass`, which is exact. The rest is arithmetic (weights, mapped files, the
data set) and a few measured constants (Python and its libraries, the tokenizer, BLAS buffers). The result is held
against ``ru_maxrss`` of real runs in the tests and in ``python -m benchmarks memory_estimate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.gguf.names import MODULES, ROPE_FREQS
from entrenar_core.lora.inject import LoRASettings
from entrenar_core.model.load import expected_shapes, optional_shapes
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.dry_pass import BatchShape, PassMemory, dry_pass
from entrenar_core.train.parts import BatchSource

MIB = 1 << 20

LIBRARIES = 240 * MIB
"""Python, NumPy, numba with LLVM, pyarrow, the tokenizer library and our kernels once they are loaded."""

BYTES_PER_TOKEN_NAME = 780
"""One entry of a vocabulary in our tables and those of the tokenizer library: 650 to 930 over seven real vocabularies,
without the pieces of the file that `mapped` counts."""

BLAS_PER_THREAD = 16 * MIB
"""The most of its packing buffer that OpenBLAS was seen to touch on one thread."""

READING = 20 * MIB
"""Arrow's buffers and the tokenizer's caches while a data set is read; small files need less."""

READING_PER_BYTE = 5
"""Bytes of text and its tokens in flight for one byte of a small file."""

BYTES_PER_TOKEN = 5
BYTES_PER_EXAMPLE = 48
"""A token is an int32 and a flag; an example has an offset, and its place in the order and the rows of an epoch."""

MAPPED = "base file, mapped"
"""Pages of the base model's file. They count as resident, but the system may drop them when it needs the room."""


@dataclass(frozen=True)
class MemoryRequest:
    """What the memory of a run depends on.

    Attributes:
        spec: sizes of the model.
        optimizer: the section of the config.
        batches: rows and width of the largest batches, in the order in which they come; one is repeated by itself.
        lora: settings of the adapters; None: all weights are trained.
        checkpoint_activations: `training.activation_checkpointing`.
        threads: `training.threads`.
        packed_type: the block type (Q4_0, Q8_0) that a frozen base is held in; None: float32.
        tensors: name and shape of the file's tensors; empty: those that the spec implies.
        base_bytes: size of the base model's files; 0 for a new model.
        vocab_size: tokens of the tokenizer; None: as many as the embedding has.
        data_tokens, data_examples, data_bytes: of everything that is read and held; 0 tokens for streamed data.
    """

    spec: DecoderSpec
    optimizer: OptimizerConfig
    batches: Sequence[BatchShape]
    lora: LoRASettings | None = None
    checkpoint_activations: bool = False
    threads: int | None = None
    packed_type: str | None = None
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    base_bytes: int = 0
    vocab_size: int | None = None
    data_tokens: int = 0
    data_examples: int = 0
    data_bytes: int = 0


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
        return self.total - dict(self.parts).get(MAPPED, 0)


def estimate_memory(request: MemoryRequest) -> MemoryEstimate:
    """The peak resident memory of a whole run: opening, steps, checkpoints, export.

    Raises:
        ConfigError, ModelError: LoRA targets that name no layer.
        MemoryError: not even the address space for it can be had.
    """
    batches = list(request.batches) * (2 if len(request.batches) == 1 else 1)
    optional = optional_shapes(request.spec)
    extra = [(name, shape) for name, shape in request.tensors.items() if name in optional and name != ROPE_FREQS]
    held = dry_pass(
        request.spec,
        request.optimizer,
        batches,
        lora=request.lora,
        checkpoint_activations=request.checkpoint_activations,
        threads=request.threads,
        optional_tensors=extra,
    )
    shapes = {**expected_shapes(request.spec), **dict(extra)}
    return MemoryEstimate(
        (
            ("Python and libraries", LIBRARIES),
            ("tokenizer", BYTES_PER_TOKEN_NAME * (request.vocab_size or request.spec.vocab_size)),
            (MAPPED, request.base_bytes),
            ("data", _data_bytes(request)),
            ("weights", weight_bytes(shapes, request.packed_type)),
            *_engine_parts(held, request, shapes),
            ("export", _export_bytes(request, shapes)),
        )
    )


def batch_shapes(source: BatchSource, n_batches: int, most: int = 32) -> list[BatchShape]:
    """Shapes of the first `n_batches` batches of a run, in order; of more than `most`, some at even distances.

    Rows that are not packed have many widths, and buffers of one width do not serve the next, so the order matters.
    """
    per_epoch = source.batches_per_epoch(0)
    wanted = min(n_batches, per_epoch)
    chosen = range(wanted) if wanted <= most else [place * wanted // most for place in range(most)]
    shapes = (source.batch(0, index).tokens.shape for index in chosen)
    return [(rows, width) for rows, width in shapes]


def weight_bytes(shapes: Mapping[str, tuple[int, ...]], packed_type: str | None) -> int:
    """Bytes of a model's weights: float32, or with the matrices of its blocks packed as `packed_type`."""
    total = 0
    for name, shape in shapes.items():
        if packed_type is not None and is_packable(name, shape, packed_type):
            total += math.prod(shape[:-1]) * TYPE_BY_NAME[packed_type].row_bytes(shape[-1])
        else:
            total += 4 * math.prod(shape)
    return total


def is_packable(name: str, shape: tuple[int, ...], packed_type: str) -> bool:
    """Whether QLoRA holds this tensor packed: a linear layer of a block whose rows are whole blocks of the type."""
    module = name.split(".")[-2]
    return len(shape) == 2 and module in MODULES.values() and shape[-1] % TYPE_BY_NAME[packed_type].block_size == 0


def _engine_parts(
    held: PassMemory, request: MemoryRequest, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, int], ...]:
    largest = max(4 * math.prod(shape) for shape in shapes.values())
    count = request.threads or held.threads
    parts = [
        ("optimizer state", held.optimizer),
        ("gradients", held.gradients),
        ("activations", held.activations),
        ("work buffers", held.work + count * min(BLAS_PER_THREAD, largest)),
    ]
    return (("adapters", held.adapters), *parts) if request.lora is not None else tuple(parts)


def _data_bytes(request: MemoryRequest) -> int:
    reading = min(READING, READING_PER_BYTE * request.data_bytes)
    return reading + BYTES_PER_TOKEN * request.data_tokens + BYTES_PER_EXAMPLE * request.data_examples


def _export_bytes(request: MemoryRequest, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What writing the result needs beyond what is there: one tensor is merged and checked at a time."""
    if request.lora is None:
        return max(math.prod(shape) for shape in shapes.values())  # one flag a value
    blocks = [math.prod(shape) for name, shape in shapes.items() if name.split(".")[-2] in MODULES.values()]
    return 12 * max(blocks)  # the weight, B·A, and that times the scale
