"""A base model and what became of it in other hands: files that can be merged."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import lively_weights
from tests.stages.tiny_base import base_spec, write_base


def write_relative(path: Path, spec: DecoderSpec | None = None, **options: Any) -> Path:
    """The base of `spec` with a small change to every weight, which follows from the name of the file."""
    spec = base_spec() if spec is None else spec
    draw = np.random.default_rng(zlib.crc32(path.name.encode()))
    changed = {
        name: values + draw.normal(0, 0.01, values.shape).astype(np.float32)
        for name, values in lively_weights(spec).items()
    }
    return write_base(path, spec, **{"replaced": changed, **options})


def write_family(folder: Path, *names: str, **options: Any) -> None:
    """``base.gguf`` and its relatives ``NAME.gguf``."""
    write_base(folder / "base.gguf", **options)
    for name in names:
        write_relative(folder / f"{name}.gguf", **options)
