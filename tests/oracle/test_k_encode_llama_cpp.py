"""K- and IQ4-types lose no more than llama.cpp's quantizer on the same values, with and without an importance.

Bounds are on the root of the mean squared error, weighted by the importance where one is given.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.gguf.reader import GGUFFile

llama_cpp = pytest.importorskip("llama_cpp")

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
BOUND = 1.01
SYNTHETIC = ("gaussian", "laplace", "heavy_tailed", "outliers", "uniform", "positive")


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def quantize(ggml: ctypes.CDLL, type_name: str, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """ggml's bytes of float32 rows, uint8 [rows, row_bytes]."""
    kind = TYPE_BY_NAME[type_name]
    packed = np.zeros((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    size = ggml.ggml_quantize_chunk(kind.id, rows.ctypes.data, packed.ctypes.data, 0, len(rows), rows.shape[1], weights)
    assert size == packed.nbytes
    return packed


def error_ratio(ggml: ctypes.CDLL, type_name: str, rows: np.ndarray, importance: np.ndarray | None = None) -> float:
    """Our error over llama.cpp's; both are decoded by our codec, which is gguf-py's equal."""
    codec = codec_for(type_name)

    def error(packed: np.ndarray) -> float:
        lost = codec.decode(packed).astype(np.float64) - rows
        return float((lost**2 * (1.0 if importance is None else importance)).sum())

    return float(np.sqrt(error(codec.encode(rows, importance)) / error(quantize(ggml, type_name, rows, importance))))


def synthetic(kind: str) -> np.ndarray:
    """float32 [512, 512]."""
    rng = np.random.default_rng(0)
    shape = (512, 512)
    values = {
        "gaussian": lambda: 0.02 * rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "heavy_tailed": lambda: rng.standard_t(3, shape),
        "outliers": lambda: rng.standard_normal(shape) * np.where(rng.random(shape) < 0.003, 30.0, 1.0),
        "uniform": lambda: rng.uniform(-1.0, 1.0, shape),
        "positive": lambda: 0.5 + np.abs(rng.standard_normal(shape)),
    }[kind]()
    return values.astype(np.float32)


def some_importance(n_columns: int) -> np.ndarray:
    """Mean squares of activations spread over about two powers of ten."""
    return np.exp(1.5 * np.random.default_rng(1).standard_normal(n_columns)).astype(np.float32)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("kind", SYNTHETIC)
def test_synthetic_values(ggml: ctypes.CDLL, type_name: str, kind: str) -> None:
    assert error_ratio(ggml, type_name, synthetic(kind)) <= BOUND


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("kind", SYNTHETIC)
def test_synthetic_values_with_an_importance(ggml: ctypes.CDLL, type_name: str, kind: str) -> None:
    assert error_ratio(ggml, type_name, synthetic(kind), some_importance(512)) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("type_name", TYPES)
def test_every_matrix_of_a_real_model(ggml: ctypes.CDLL, type_name: str, shared_data: Path) -> None:
    ratios = {}
    with GGUFFile.open(shared_data / "models" / "base-7m-f16.gguf") as file:
        for name in file.tensors:
            values = file.load(name)
            if values.ndim == 2:
                rows = np.ascontiguousarray(values[:512])
                ratios[name] = error_ratio(ggml, type_name, rows)
                ratios[f"{name}, importance"] = error_ratio(ggml, type_name, rows, some_importance(rows.shape[1]))
    assert len(ratios) > 80
    assert {name: ratio for name, ratio in ratios.items() if ratio > BOUND} == {}
