"""LoRA adapters as GGUF files, in the form that llama.cpp loads.

``blk.N.attn_q.weight.lora_a`` is [R, in] and ``.lora_b`` [out, R]; whoever loads them multiplies by
``adapter.lora.alpha`` / R. The scale of rsLoRA is therefore folded into B when the file is written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from entrenar_core.errors import EntrenarError, FormatError, ModelError
from entrenar_core.gguf.keys import ADAPTER_LORA_ALPHA
from entrenar_core.gguf.names import TOKEN_EMBD
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.lora.inject import adaptable_layers, attach, refuse_adapted
from entrenar_core.lora.layer import LoRALinear
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.module import Module


@dataclass(frozen=True)
class AdapterPair:
    """A [R, in] and B [out, R] of one weight, and the factor on B·A."""

    a: np.ndarray
    b: np.ndarray
    scale: float

    def delta(self) -> np.ndarray:
        """What the adapter adds to its weight, [out, in]."""
        return np.float32(self.scale) * (self.b @ self.a)


def adapter_pairs(model: Module) -> dict[str, AdapterPair]:
    """The adapters of a model by the name of the weight they belong to."""
    return {
        layer.weight.name: AdapterPair(layer.lora_a.numpy(), layer.lora_b.numpy(), layer.scale)
        for _, _, layer in adaptable_layers(model)
        if isinstance(layer, LoRALinear)
    }


def write_adapter(
    path: str | os.PathLike[str],
    architecture: str,
    pairs: Mapping[str, AdapterPair],
    alpha: float,
    provenance: Iterable[tuple[str, MetadataValue]] = (),
    type_name: str = "F32",
) -> int:
    """Write adapters; returns the size of the file in bytes.

    Args:
        path: of the new file.
        architecture: of the base model; llama.cpp refuses another one.
        pairs: by weight name.
        alpha: for the file. B is scaled by what scale differs from `loaded_scale`, which for rsLoRA is √R.
        provenance: more metadata.
        type_name: F32, or F16, which keeps 11 bits of each number.

    Raises:
        OutputError: the file cannot be written.
        FormatError: a number is too large for F16.
    """
    metadata = [
        ("general.type", MetadataValue.string("adapter")),
        ("general.architecture", MetadataValue.string(architecture)),
        ("adapter.type", MetadataValue.string("lora")),
        (ADAPTER_LORA_ALPHA, MetadataValue.float32(alpha)),
        *provenance,
    ]
    plans = []
    for name, pair in pairs.items():
        folded = pair.scale / loaded_scale(alpha, pair.a.shape[0])
        b = pair.b if math.isclose(folded, 1.0, rel_tol=1e-9) else pair.b * np.float32(folded)
        plans.append(encode_tensor(f"{name}.lora_a", pair.a.astype(np.float32), type_name))
        plans.append(encode_tensor(f"{name}.lora_b", b.astype(np.float32), type_name))
    return write_gguf(path, metadata, plans)


class GGUFAdapter:
    """A LoRA adapter in a GGUF file; made by `open`.

    Attributes:
        shapes: [out, in] of each weight that is changed, by name.
        paths: the file.
    """

    def __init__(self, file: GGUFFile, alpha: float) -> None:
        self.paths: Sequence[Path] = file.paths
        self._file = file
        self._alpha = alpha
        where = str(file.paths[0])
        names = sorted({_weight_name(name, where) for name in file.tensors})
        if not names:
            raise FormatError("the adapter holds no tensors", where=where)
        self.shapes = {name: _checked_shape(file, name, where) for name in names}

    @classmethod
    def open(cls, path: str | os.PathLike[str], architecture: str) -> GGUFAdapter:
        """Open an adapter for a model of an architecture. Raises as `read_adapter` does."""
        file = GGUFFile.open(path)
        try:
            return cls(file, _checked_alpha(file, architecture, str(path)))
        except EntrenarError:
            file.close()
            raise

    def pair(self, name: str) -> AdapterPair:
        """A and B of a weight. The A of an embedding is stored transposed, and the two are for its transpose."""
        a, b = self._file.load(f"{name}.lora_a"), self._file.load(f"{name}.lora_b")
        if name == TOKEN_EMBD:
            a, b = b.T, a
        return AdapterPair(a, b, loaded_scale(self._alpha, a.shape[0]))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_adapter(path: str | os.PathLike[str], architecture: str) -> dict[str, AdapterPair]:
    """The adapters in a GGUF file by weight name.

    Args:
        path: of the file.
        architecture: of the model they shall go to.

    Raises:
        FormatError: not a LoRA adapter, or an empty one, or A and B do not pair up.
        ModelError: made for another architecture.
    """
    with closing(GGUFAdapter.open(path, architecture)) as adapter:
        return {name: adapter.pair(name) for name in adapter.shapes}


def _checked_alpha(file: GGUFFile, architecture: str, where: str) -> float:
    if file.metadata.get("general.type") != "adapter" or file.metadata.get("adapter.type") != "lora":
        raise FormatError("this is not a LoRA adapter", where=where, hint="give the model as the first argument")
    if file.metadata.get("general.architecture") != architecture:
        raise ModelError(
            f"the adapter is for a {file.metadata.get('general.architecture')} model, not {architecture}",
            where=where,
        )
    alpha = file.metadata.get(ADAPTER_LORA_ALPHA, 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise FormatError(f"{ADAPTER_LORA_ALPHA} is {alpha!r}, not a number", where=where)
    return alpha


def _weight_name(tensor: str, where: str) -> str:
    for suffix in (".lora_a", ".lora_b"):
        if tensor.endswith(suffix):
            return tensor.removesuffix(suffix)
    raise FormatError(f"the tensor {tensor} is neither a lora_a nor a lora_b", where=where)


def _checked_shape(file: GGUFFile, name: str, where: str) -> tuple[int, int]:
    """[out, in] of a weight."""
    for part in ("lora_a", "lora_b"):
        if f"{name}.{part}" not in file.tensors:
            raise FormatError(f"the tensor {name}.{part} is missing", where=where)
    a, b = file.tensors[f"{name}.lora_a"].shape, file.tensors[f"{name}.lora_b"].shape
    is_embedding = name == TOKEN_EMBD
    if len(a) != 2 or len(b) != 2 or a[1 if is_embedding else 0] != b[1]:
        raise FormatError(f"lora_a {list(a)} and lora_b {list(b)} of {name} do not fit", where=where)
    return (a[0], b[0]) if is_embedding else (b[0], a[1])


def loaded_scale(alpha: float, rank: int) -> float:
    """The factor that whoever loads a file puts on B·A: alpha/R, and 1 for an alpha of 0, as in llama.cpp."""
    return alpha / rank if alpha != 0.0 else 1.0


def attach_adapter(model: LanguageModel, pairs: Mapping[str, AdapterPair], source: str) -> None:
    """Put adapters beside the weights they name; the model is frozen, A and B are trainable.

    Raises:
        ModelError: the model has no such layer, or another shape, or an adapter already; it is left as it was.
    """
    layers = {layer.weight.name: (holder, attribute, layer) for holder, attribute, layer in adaptable_layers(model)}
    for name, pair in pairs.items():
        if name not in layers:
            raise ModelError(f"the adapter has {name}, the model does not", where=source)
        shape = layers[name][2].weight.shape
        if (pair.b.shape[0], pair.a.shape[1]) != shape:
            raise ModelError(
                f"the adapter of {name} is for {[pair.b.shape[0], pair.a.shape[1]]}, the model has {list(shape)}",
                where=source,
            )
    refuse_adapted([layer for _, _, layer in layers.values()])
    model.freeze()
    for name, pair in pairs.items():
        holder, attribute, layer = layers[name]
        setattr(holder, attribute, attach(layer, pair.a, pair.b, pair.scale))
