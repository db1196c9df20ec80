"""Models of a merge that are in memory: what plans are tested with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.merge.model_tensors import Entries, Floats, Shape, matrix_shape

WIDTH, TOKENS = 4, 6


class MemoryModel:
    """See `ModelTensors`."""

    def __init__(
        self, path: str, tensors: Mapping[str, Floats], metadata: Entries, architecture: str = "llama"
    ) -> None:
        self.path = path
        self.architecture = architecture
        self.tensors = dict(tensors)
        self.metadata = metadata
        self.tokens: Sequence[str] = [f"t{index}" for index in range(TOKENS)]
        self.n_bytes = sum(array.nbytes for array in tensors.values())

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {name: array.shape for name, array in self.tensors.items()}

    def type_name(self, name: str) -> str:
        return "F32"

    def read(self, name: str, first_row: int, out: Floats) -> None:
        array = self.tensors[name]
        out[:] = array.reshape(matrix_shape(array.shape))[first_row : first_row + len(out)]

    def packed(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


def layer(number: int) -> dict[str, Floats]:
    shapes = {"attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "ffn_up": (2 * WIDTH, WIDTH)}
    return {f"blk.{number}.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def memory_model(
    path: str = "m.gguf", n_layers: int = 3, architecture: str = "llama", more: Entries | None = None, **tensors: Any
) -> MemoryModel:
    """A decoder of few tensors; `tensors` are added, replace others, or take them away (None)."""
    arrays: dict[str, Floats] = {"token_embd.weight": np.zeros((TOKENS, WIDTH), np.float32)}
    for number in range(n_layers):
        arrays |= layer(number)
    arrays |= {
        "output_norm.weight": np.zeros(WIDTH, np.float32),
        "output.weight": np.zeros((TOKENS, WIDTH), np.float32),
    }
    arrays |= tensors
    metadata: Entries = [
        ("general.architecture", MetadataValue.string(architecture)),
        ("general.name", MetadataValue.string(path)),
        (f"{architecture}.block_count", MetadataValue.uint32(n_layers)),
        ("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, [f"t{index}" for index in range(TOKENS)])),
        *(more or []),
    ]
    return MemoryModel(
        path, {name: array for name, array in arrays.items() if array is not None}, metadata, architecture
    )


def merge_of(
    method: str, models: Sequence[Any] | None = None, output: Mapping[str, Any] | None = None, **more: Any
) -> MergeConfig:
    """A configuration; `more` are keys of the section `merge`."""
    section = {"method": method, **({"models": list(models)} if models is not None else {}), **more}
    return MergeConfig.model_validate({"merge": section, "output": dict(output or {})})


def opened(config: MergeConfig, **depths: int) -> list[MemoryModel]:
    """A model for each file of a configuration, of three layers or as many as `depths` says for its name."""
    return [memory_model(one.path, depths.get(one.path.removesuffix(".gguf"), 3)) for one in config.files]
