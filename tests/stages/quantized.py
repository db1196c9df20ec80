"""Calls the quantize stage as the command does, on the tiny base model or on one that llama.cpp's K-types fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.codecs.registry import codec_for
from entrenar_core.config.quantize_file import Option, quantize_config
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf
from entrenar_core.stages.quantize import QuantizeResult, run_quantize

WIDE = 256
"""A row of one block of any type."""


def quantize(
    source: Path, target: Path, reporter: Any = None, *, overwrite: bool = False, measures: bool = False, **keys: Any
) -> QuantizeResult:
    """`keys` are those of the section (type, bits ...), or ``run__threads`` for others."""
    options = [Option("MODEL", ("model", "path"), str(source)), Option("-o", ("output", "path"), str(target))]
    for key, value in keys.items():
        path = tuple(key.split("__")) if "__" in key else ("quantize", key)
        options.append(Option(f"--{key}", path, value))
    return run_quantize(
        quantize_config(None, options), reporter or SilentReporter(), overwrite=overwrite, measures=measures
    )


def write_wide(
    path: Path,
    *,
    type_name: str = "F16",
    layers: int = 2,
    columns: int = WIDE,
    rows: int = 8,
    seed: int = 0,
    **odd: Any,
) -> Path:
    """Matrices [rows, columns] of a few layers with heavy tails; `odd` values replace the first of a tensor's."""
    rng = np.random.default_rng(0)
    plans = [encode_tensor("output_norm.weight", rng.standard_normal(columns).astype(np.float32), "F32")]
    modules = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    names = ["token_embd", "output", *(f"blk.{layer}.{module}" for layer in range(layers) for module in modules)]
    for name in names:
        values = rng.standard_t(4, (rows, columns)).astype(np.float32) * np.float32(0.05)
        if name in odd:
            values[rows // 2, 3] = odd[name]
        plans.append(_plan(f"{name}.weight", values, type_name))
    metadata = [
        ("general.architecture", MetadataValue.string("llama")),
        ("llama.block_count", MetadataValue.uint32(layers)),
        ("llama.attention.head_count", MetadataValue.uint32(4)),
        ("llama.attention.head_count_kv", MetadataValue.uint32(4)),
        ("llama.context_length", MetadataValue.uint32(16)),
        ("llama.embedding_length", MetadataValue.uint32(columns)),
        ("llama.feed_forward_length", MetadataValue.uint32(columns)),
        ("llama.attention.layer_norm_rms_epsilon", MetadataValue.float32(1e-5)),
        ("general.quantization_version", MetadataValue.uint32(1)),
    ]
    write_gguf(path, metadata, plans)
    return path


def _plan(name: str, values: np.ndarray, type_name: str) -> TensorPlan:
    if type_name in ("F32", "F16", "BF16"):
        with np.errstate(over="ignore"):
            raw = values.astype("<f2").view(np.uint8) if type_name == "F16" else None
        if raw is not None:
            return TensorPlan(name, values.shape, type_name, lambda: raw)
    return encode_tensor(name, values, type_name)


def types_of(path: Path) -> dict[str, str]:
    with GGUFFile.open(path) as file:
        return {name: info.type_name for name, info in file.tensors.items()}


def expected_bytes(source: GGUFFile, name: str, type_name: str) -> bytes:
    """A tensor decoded and encoded as a whole."""
    values = source.load(name)
    return codec_for(type_name).encode(np.ascontiguousarray(values)).tobytes()
