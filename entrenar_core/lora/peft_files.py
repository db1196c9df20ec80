"""LoRA adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors.

A is [R, in] and B [out, R], named after a module of the Hugging Face model; of an embedding they are for its transpose.
Where GGUF has the rows of attn_q and attn_k in another order, so have the rows of B here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.errors import FormatError
from entrenar_core.gguf.names import has_permuted_rows, permute_rope_rows, to_gguf
from entrenar_core.hugging_face.json_object import read_json
from entrenar_core.hugging_face.safetensors_files import SafetensorsFiles, load_tensor, open_safetensors
from entrenar_core.lora.files import AdapterPair
from entrenar_core.lora.peft_config import PEFT_CONFIG, PeftConfig, read_peft_config

_STEM = "adapter_model"
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])"
    r"(\.default)?(\.weight)?"
)


@dataclass(frozen=True)
class _Weight:
    """The tensors A and B of a module by their names in the file. `heads`: those that GGUF sorts its rows by."""

    module: str
    a: str
    b: str
    is_embedding: bool
    heads: int | None


class PeftAdapter:
    """See `adapter.Adapter`; made by `open`."""

    def __init__(self, files: SafetensorsFiles, config: PeftConfig, weights: Mapping[str, _Weight]) -> None:
        self.paths: Sequence[Path] = [files.paths[0].parent / PEFT_CONFIG, *files.paths]
        self._files = files
        self._config = config
        self._weights = weights
        self.shapes = {name: _checked_shape(weight, files, config) for name, weight in weights.items()}

    @classmethod
    def open(cls, folder: Path, architecture: str, n_heads: int, n_kv_heads: int) -> PeftAdapter:
        """See `adapter.open_adapter`."""
        config = read_peft_config(read_json(folder / PEFT_CONFIG))
        files = open_safetensors(folder, _STEM)
        return cls(files, config, _weights(files, architecture, n_heads, n_kv_heads))

    def pair(self, name: str) -> AdapterPair:
        weight = self._weights[name]
        a, b = load_tensor(self._files, weight.a), load_tensor(self._files, weight.b)
        scale = self._config.scale_of(weight.module)
        if weight.is_embedding:
            return AdapterPair(b.T, a.T, scale)
        return AdapterPair(a, b if weight.heads is None else permute_rope_rows(b, weight.heads), scale)

    def close(self) -> None:
        """Nothing stays open."""


def _weights(files: SafetensorsFiles, architecture: str, n_heads: int, n_kv_heads: int) -> dict[str, _Weight]:
    """By the GGUF name of the weight that is changed."""
    parts: dict[tuple[str, bool], dict[str, str]] = {}
    for name, info in files.tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise FormatError(
                "this is no A or B of a LoRA adapter", where=f"{files.paths[info.shard]}: tensor {name[:100]}"
            )
        parts.setdefault((match["module"], match["embedding"] is not None), {})[match["part"]] = name
    weights: dict[str, _Weight] = {}
    where = str(files.paths[0])
    for (module, is_embedding), halves in parts.items():
        if halves.keys() != {"A", "B"}:
            raise FormatError(f"{module} has only one of A and B", where=where, hint="the file is incomplete")
        name = _gguf_name(module, architecture, where)
        heads = n_heads if ".attn_q." in name else n_kv_heads
        sorted_by = heads if has_permuted_rows(name, architecture) else None
        weights[name] = _Weight(module, halves["A"], halves["B"], is_embedding, sorted_by)
    if not weights:
        raise FormatError("the adapter holds no tensors", where=where)
    return weights


def _gguf_name(module: str, architecture: str, where: str) -> str:
    try:
        return to_gguf(f"{module}.weight", architecture)
    except FormatError as error:
        raise FormatError(error.message, where=where, hint=error.hint) from error


def _checked_shape(weight: _Weight, files: SafetensorsFiles, config: PeftConfig) -> tuple[int, int]:
    """[out, in] of the weight that the two change."""
    a, b = files.tensors[weight.a].shape, files.tensors[weight.b].shape
    where = f"{files.paths[0]}: {weight.module}"
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise FormatError(f"A {list(a)} and B {list(b)} do not fit", where=where)
    if a[0] != config.rank_of(weight.module):
        raise FormatError(f"its rank is {a[0]}, {config.where} says {config.rank_of(weight.module)}", where=where)
    return (a[1], b[0]) if weight.is_embedding else (b[0], a[1])
