"""Files of `entrenar quantize` and of llama-quantize: the same bytes for the legacy types, and all of them load."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.reader import GGUFFile
from tests.stages.quantized import quantize
from tests.stages.tiny_base import base_spec, write_base

llama_cpp = pytest.importorskip("llama_cpp")

EXACT = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32")
MIXES = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", *EXACT)
WRITTEN_EXACTLY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32")
"""Types for which our bytes are those of llama.cpp; the others are held to its error instead."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model with rows of 256, without the one key that llama.cpp does not read."""
    path = tmp_path_factory.mktemp("tiny") / "base.gguf"
    spec = base_spec(hidden_size=256, intermediate_size=256, head_dim=64, rope_dimensions=64)
    return write_base(path, spec, type_name="F16", without=["test.nested"])


def quantize_with_llama_cpp(source: Path, target: Path, mix: str) -> None:
    chosen = llama_cpp.llama_model_quantize_default_params()
    chosen.ftype, chosen.nthread = int(FileType[mix.upper()]), 2
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(chosen)) == 0


def compare(source: Path, folder: Path, mix: str) -> None:
    """Types of all tensors are equal, and so are the bytes of those whose type is written exactly."""
    ours, theirs = folder / f"ours-{mix}.gguf", folder / f"theirs-{mix}.gguf"
    quantize(source, ours, type=mix)
    quantize_with_llama_cpp(source, theirs, mix)
    different = []
    with GGUFFile.open(ours) as left, GGUFFile.open(theirs) as right:
        assert {name: one.type_name for name, one in left.tensors.items()} == {
            name: one.type_name for name, one in right.tensors.items()
        }
        for name, info in left.tensors.items():
            if info.type_name in WRITTEN_EXACTLY and left.raw(name).tobytes() != right.raw(name).tobytes():
                different.append(name)
        keys = ("general.file_type", "general.quantization_version")
        assert [left.metadata[key] for key in keys] == [right.metadata[key] for key in keys]
    assert different == []


@pytest.mark.parametrize("mix", MIXES)
def test_a_tiny_model_has_the_types_and_exact_bytes_of_llama_quantize(mix: str, tiny: Path, tmp_path: Path) -> None:
    compare(tiny, tmp_path, mix)


@pytest.mark.parametrize("mix", ["q4_0", "q8_0", "q5_1", "q4_k_m"])
def test_a_real_model_has_the_types_and_exact_bytes_of_llama_quantize(
    mix: str, shared_data: Path, tmp_path: Path
) -> None:
    compare(shared_data / "models" / "base-7m-f16.gguf", tmp_path, mix)


@pytest.mark.parametrize("mix", MIXES)
def test_llama_cpp_loads_every_mix_and_its_answers_are_as_near_as_those_of_its_own_file(
    mix: str, tiny: Path, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    quantize(tiny, ours, type=mix)
    quantize_with_llama_cpp(tiny, theirs, mix)
    exact = _scores(tiny)
    distances = [float(np.sqrt(np.mean((_scores(path) - exact) ** 2))) for path in (ours, theirs)]
    assert np.isfinite(distances).all()
    assert distances[0] <= 1.5 * distances[1]


def _scores(path: Path) -> np.ndarray:
    model = llama_cpp.Llama(str(path), n_ctx=16, n_threads=1, logits_all=True, verbose=False)
    try:
        model.eval([1, 2, 3, 4])
        return np.array(model.scores[3], dtype=np.float64)
    finally:
        model.close()
