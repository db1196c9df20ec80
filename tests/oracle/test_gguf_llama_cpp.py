"""llama.cpp loads the files we write and computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entrenar_core.gguf.keys import GENERAL_FILE_TYPE, FileType
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf

llama_cpp = pytest.importorskip("llama_cpp")

TOKENS = [1, 17, 400, 23, 9, 1200, 5, 77]


def logits(path: Path) -> np.ndarray:
    """float32[T, V] of TOKENS."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, logits_all=True, verbose=False)
    model.eval(TOKENS)
    return np.array(model.scores[: len(TOKENS)])


def rewritten(source: Path, target: Path, file_type: FileType) -> Path:
    """`source` with every matrix encoded in another type, vectors in F32."""
    with GGUFFile.open(source) as file:
        entries = dict(file.metadata_entries()) | {GENERAL_FILE_TYPE: MetadataValue.uint32(file_type)}

        def plan(name: str) -> TensorPlan:
            values = file.load(name)
            return encode_tensor(name, values, file_type.name if values.ndim > 1 else "F32")

        write_gguf(target, entries.items(), [plan(name) for name in file.tensors])
    return target


@pytest.mark.parametrize("file_type", [FileType.F32, FileType.F16, FileType.BF16], ids=lambda kind: kind.name)
def test_llama_cpp_loads_a_rewritten_model_and_gives_the_same_logits(
    file_type: FileType, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "models" / "base-7m-f16.gguf"
    ours, original = logits(rewritten(source, tmp_path / "m.gguf", file_type)), logits(source)
    tolerance = 0.1 if file_type is FileType.BF16 else 0.02
    assert np.abs(ours - original).max() < tolerance
    assert ours.std() > 0.5
