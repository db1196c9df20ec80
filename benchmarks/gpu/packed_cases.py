"""Weights in GGML blocks: decoded bit for bit, multiplied, looked up; and rounding to a type and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.compare import Call, Draw, Finding, different, rounded
from benchmarks.gpu.random_blocks import random_blocks
from benchmarks.gpu.subject import DTYPES, Subject
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import DECODABLE, codec_for

MULTIPLIED = ("BF16", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS")
ROUNDED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")

NDArray = np.ndarray[Any, np.dtype[Any]]


def decoding(subject: Subject) -> Iterator[Finding]:
    """Every type, through products with the unit matrix and through looking rows up."""
    for type_name in sorted(DECODABLE):
        matrix = random_blocks(type_name, subject.sizes.packed[0])
        for dtype in DTYPES:
            yield _decoded(subject, matrix, dtype)


def _decoded(subject: Subject, matrix: PackedMatrix, dtype: str) -> Finding:
    backend, truth = subject.backends[dtype], rounded(matrix.values(), dtype)
    n_out, n_in = matrix.shape
    handle = backend.prepare_packed(matrix)
    by_columns = backend.linear(_unit(backend, n_in), handle)
    by_rows = backend.linear_input_grad(_unit(backend, n_out), handle)
    looked_up = backend.embedding_packed(handle, backend.asarray(np.arange(n_out, dtype=np.int32)))
    found = [backend.to_host(by_columns).T, backend.to_host(by_rows), backend.to_host(looked_up)]
    faults = () if handle.n_bytes <= matrix.n_bytes else (f"{handle.n_bytes} bytes for {matrix.n_bytes}",)
    error = max(different(values, truth) for values in found)
    return Finding(f"decoding {matrix.type_name}", dtype, error, 0.0, faults, tried=3)


def _unit(backend: Any, n: int) -> Any:
    return backend.cast(backend.asarray(np.eye(n, dtype=np.float32)), backend.compute_dtype)


def products(draw: Draw) -> Iterator[Call]:
    for type_name in MULTIPLIED:
        for n_out, n_in in draw.sizes.packed:
            matrix = random_blocks(type_name, (n_out, n_in))
            largest = float(np.abs(matrix.values()).max())
            for n_rows in (1, 50):
                x, dy = draw.activation(n_rows, n_in), draw.activation(n_rows, n_out)
                yield Call("linear", (x, matrix), label=f"linear {type_name}", terms=largest)
                yield Call("linear_input_grad", (dy, matrix), label=f"linear_input_grad {type_name}", terms=largest)
            ids = draw.ids(300, n_out)
            yield Call("embedding_packed", (matrix, ids), label=f"embedding_packed {type_name}")


def fake_quantization(draw: Draw) -> Iterator[Call]:
    for type_name in ROUNDED:
        for shape in draw.sizes.packed[:2]:
            values, codec = uneven_rows(draw, shape), codec_for(type_name)
            label = f"fake_quantize {type_name}"
            yield Call("fake_quantize", (values, codec), label=label, exact=True)
            out, inside = np.zeros(shape), np.zeros(shape, np.bool_)
            yield Call(
                "fake_quantize", (values, codec, None, out, inside), label=f"{label}, range", changed=(3, 4), exact=True
            )


def uneven_rows(draw: Draw, shape: tuple[int, ...]) -> NDArray:
    """Rows whose blocks differ in size by many powers of two; some are zeros, ramps, and ties between codes."""
    values = draw.normal(*shape).reshape(-1, 32)
    values *= np.ldexp(1.0, draw.rng.integers(-20, 12, len(values)))[:, None]
    values[::11] = 0
    values[1::11] = np.arange(32) - 16
    values[2::11] = draw.rng.integers(-254, 255, values[2::11].shape) / 2
    return values.reshape(shape).astype(np.float32).astype(np.float64)
