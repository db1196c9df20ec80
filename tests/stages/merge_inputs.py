"""A base model and what became of it in other hands: files that can be merged."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import lively_weights
from tests.stages.tiny_base import base_spec, write_base


def write_relative(path: Path, spec: DecoderSpec | None = None, **options: Any) -> Path:
    """The base of `spec` with a small change to every weight, which follows from the name of the file."""
    spec = base_spec() if spec is None else spec
    draw = np.random.default_rng(zlib.crc32(path.name.encode()))
    changed = {name: near(values, draw) for name, values in lively_weights(spec).items()}
    return write_base(path, spec, **{"replaced": changed, **options})


def write_family(folder: Path, *names: str, **options: Any) -> None:
    """``base.gguf`` and its relatives ``NAME.gguf``."""
    write_base(folder / "base.gguf", **options)
    for name in names:
        write_relative(folder / f"{name}.gguf", **options)


def write_near(path: Path, base: Path, seed: int) -> None:
    """A model in F16 and F32 with a small change to every weight of `base`."""
    draw = np.random.default_rng(seed)
    with GGUFFile.open(base) as file:
        tensors = [
            encode_tensor(name, near(file.load(name), draw), file.tensors[name].type_name) for name in file.tensors
        ]
        write_gguf(path, file.metadata_entries(), tensors)


def near(values: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return values + draw.normal(0, 0.01, values.shape).astype(np.float32)


def write_lora(path: Path, base: Path, seed: int, rank: int = 2) -> None:
    """An adapter of every matrix in the layers of `base`, as GGUF."""
    draw = np.random.default_rng(seed)
    tensors = []
    with GGUFFile.open(base) as file:
        architecture = str(file.metadata["general.architecture"])
        for name, info in file.tensors.items():
            if name.startswith("blk.") and len(info.shape) == 2:
                n_out, n_in = info.shape
                for part, shape in (("lora_a", (rank, n_in)), ("lora_b", (n_out, rank))):
                    values = draw.normal(0, 0.1, shape).astype(np.float32)
                    tensors.append(encode_tensor(f"{name}.{part}", values, "F32"))
    metadata = [
        ("general.type", MetadataValue.string("adapter")),
        ("general.architecture", MetadataValue.string(architecture)),
        ("adapter.type", MetadataValue.string("lora")),
        ("adapter.lora.alpha", MetadataValue.float32(rank)),
    ]
    write_gguf(path, metadata, tensors)
