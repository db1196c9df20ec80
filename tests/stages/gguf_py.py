"""GGUF files as gguf-py sees them: the other reader that everything we write must satisfy."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def raw_fields(path: Path) -> dict[str, bytes]:
    """Every key and the bytes of its entry as they stand in the file: key, type and value."""
    fields = gguf.GGUFReader(path).fields.values()
    counts = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
    return {
        field.name: b"".join(part.tobytes() for part in field.parts) for field in fields if field.name not in counts
    }


def raw_tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """Type and packed bytes of every tensor."""
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors}


def types(path: Path) -> dict[str, str]:
    """The type of every tensor."""
    return {name: type_name for name, (type_name, _) in raw_tensors(path).items()}


def values(path: Path, name: str) -> np.ndarray:
    """The float32 values of one tensor, in numpy order."""
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


def text(path: Path, key: str) -> str:
    """The value of a string key."""
    return bytes(gguf.GGUFReader(path).fields[key].parts[-1]).decode()


def number(path: Path, key: str) -> float:
    """The value of a numeric key."""
    return float(gguf.GGUFReader(path).fields[key].parts[-1][0])
