"""Writes a llama of any benchmark shape with random F16 weights, one tensor at a time, and a vocabulary of that size.

A fine-tune of it is the same weights plus small random changes. The vocabulary is trained on real texts; where they
give fewer tokens than the shape has, unused tokens fill it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np

from benchmarks.lora_step_ours import spec_of
from benchmarks.shapes import Shape
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import Chunk, TensorPlan, encode_tensor, write_gguf
from entrenar_core.model.initialize import random_weight, spec_metadata
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.tokenizer.train import train_bpe
from entrenar_core.tokenizer.vocabulary import TokenKind

Entries = list[tuple[str, MetadataValue]]

CHANGE = 0.001
"""Standard deviation of what a fine-tune changes: 5 % of that of the weights, and far above F16's rounding."""


def write_random_gguf(
    path: Path, shape: Shape, texts: Iterable[str], seed: int = 0, *, change_seed: int | None = None
) -> int:
    """Write the model, or with `change_seed` a fine-tune of it; returns the size of the file in bytes."""
    spec = spec_of(shape)
    entries = [*spec_metadata(spec, f"random {shape.name}"), *_filled_up(train_bpe(texts, shape.vocab), shape.vocab)]
    plans = [_random_tensor(name, dims, spec, seed, change_seed) for name, dims in expected_shapes(spec).items()]
    return write_gguf(path, [*entries, (keys.GENERAL_FILE_TYPE, MetadataValue.uint32(1))], plans)


def _random_tensor(
    name: str, dims: tuple[int, ...], spec: DecoderSpec, seed: int, change_seed: int | None
) -> TensorPlan:
    type_name = "F16" if len(dims) > 1 else "F32"

    def produce() -> Iterator[Chunk]:
        values = random_weight(name, dims, spec.num_layers, seed)
        if change_seed is not None:
            rng = np.random.default_rng([change_seed, crc32(name.encode())])
            values += np.float32(CHANGE) * rng.standard_normal(dims, np.float32)
        yield from encode_tensor(name, values, type_name).produce()

    return TensorPlan(name, dims, type_name, produce)


def _filled_up(entries: Entries, vocab_size: int) -> Entries:
    """The vocabulary with unused tokens up to `vocab_size`."""
    values = dict(entries)
    tokens: list[str] = list(values[keys.TOKENIZER_TOKENS].value)
    kinds: list[int] = [int(kind) for kind in values[keys.TOKENIZER_TOKEN_TYPE].value]
    missing = vocab_size - len(tokens)
    tokens += [f"<|unused_{index}|>" for index in range(missing)]
    kinds += [int(TokenKind.UNUSED)] * missing
    values[keys.TOKENIZER_TOKENS] = MetadataValue.array(ValueType.STRING, tokens)
    values[keys.TOKENIZER_TOKEN_TYPE] = MetadataValue.array(ValueType.INT32, kinds)
    return list(values.items())
