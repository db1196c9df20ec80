"""Activations in bfloat16 on the CUDA backend: each kernel against the reference in double of the same rounded inputs.

Arithmetic is float32, so a result is the true one rounded once: within half a unit of bfloat16's last place.
Parameters, statistics and weight gradients stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.parameters import DropoutKey
from tests.backend.agreement import TRUTH, assert_close, on
from tests.cuda_host import host_runtime

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

HALF_PLACE = 2**-8
"""Of a value: the furthest that the nearest bfloat16 can be."""

KEY = DropoutKey(seed=5, step=1, micro_batch=0, module=3)


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CudaBackend(host_runtime.HostRuntime(), "bfloat16")
    yield made
    made.close()


def rounded(backend: Any, values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each value, in double."""
    return values.astype(np.float32).astype(backend.runtime.bfloat16).astype(np.float64)


def activation(backend: Any, values: np.ndarray, offset: int = 0, dtype: Any = None) -> Any:
    """Values in bfloat16 (or `dtype`) on the device, `offset` elements behind where their buffer begins."""
    dtype = backend.runtime.bfloat16 if dtype is None else dtype
    host = np.concatenate([np.zeros(offset), values.reshape(-1)]).astype(np.float32).astype(dtype)
    return backend.runtime.to_device(host)[offset:].reshape(values.shape)


def assert_rounded_once(backend: Any, actual: Any, truth: np.ndarray, what: str) -> None:
    """Each element as near to its truth as its type allows, but for float32's errors of what it was computed from."""
    is_bfloat16 = actual.dtype == backend.runtime.bfloat16
    found = backend.to_host(actual).astype(np.float64)
    assert found.shape == truth.shape, what
    allowed = HALF_PLACE * np.abs(truth) * is_bfloat16 + 1e-5 * np.abs(truth).max(initial=1.0)
    worst = np.abs(found - truth) - allowed
    assert (worst <= 0).all(), f"{what}: off by {worst.max():.3g} more than allowed"


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A call of a kernel on activations of some shapes, float32 parameters of others, and the results' types.

    results: of each "a" if it is an activation, "f" if it stays float32.
    """

    call: Callable[..., Any]
    activations: list[Shape]
    parameters: list[Shape]
    results: str


ROWS: list[Shape] = [(1, 1), (3, 5), (5, 64), (130, 37), (2, 1030)]


def row_cases(shape: Shape) -> dict[str, Case]:
    """Kernels that take rows."""
    x, width = shape, shape[1:]
    return {
        "rms_norm": Case(lambda b, x, w: b.rms_norm(x, w, 1e-5), [x], [width], "af"),
        "rms_norm_backward": Case(
            lambda b, dy, x, w: b.rms_norm_backward(dy, x, w, b.rms_norm(x, w, 1e-2)[1], True), [x, x], [width], "af"
        ),
        "layer_norm": Case(lambda b, x, g, c: b.layer_norm(x, g, c, 1e-2), [x], [width, width], "aff"),
        "layer_norm_backward": Case(
            lambda b, dy, x, g: b.layer_norm_backward(dy, x, g, *b.layer_norm(x, g, g, 1e-1)[1:]),
            [x, x],
            [width],
            "aff",
        ),
        "softmax": Case(lambda b, x: b.softmax(x), [x], [], "a"),
        "softmax_backward": Case(lambda b, dy, y: b.softmax_backward(dy, y), [x, x], [], "a"),
        "sum_rows": Case(lambda b, x: b.sum_rows(x), [x], [], "f"),
    }


FLAT: list[Shape] = [(1,), (7,), (8,), (9,), (3, 5), (4, 8), (129, 33), (0, 5)]


def flat_cases(shape: Shape) -> dict[str, Case]:
    """Kernels that look at each element alone."""
    x = shape
    cases = {
        "add": Case(lambda b, x, y: b.add(x, y), [x, x], [], "a"),
        "multiply": Case(lambda b, x, y: b.multiply(x, y), [x, x], [], "a"),
        "scale": Case(lambda b, x: b.scale(x, -0.37), [x], [], "a"),
        "swiglu": Case(lambda b, x, y: b.swiglu(x, y), [x, x], [], "a"),
        "swiglu_backward": Case(lambda b, dy, x, y: b.swiglu_backward(dy, x, y), [x, x, x], [], "aa"),
        "dropout": Case(lambda b, x: b.dropout(x, 0.3, KEY), [x], [], "a"),
    }
    for kind in ("relu", "gelu", "gelu_tanh", "silu"):
        cases[kind] = Case(lambda b, x, kind=kind: b.activation(kind, x), [x], [], "a")
        cases[f"{kind}_backward"] = Case(
            lambda b, dy, x, kind=kind: b.activation_backward(kind, dy, x), [x, x], [], "a"
        )
    return cases


def check(backend: Any, name: str, case: Case, rng: np.random.Generator) -> None:
    activations = [rounded(backend, rng.normal(size=shape)) for shape in case.activations]
    parameters = [np.float32(rng.normal(size=shape)).astype(np.float64) for shape in case.parameters]
    truths = case.call(TRUTH, *activations, *parameters)
    there = [activation(backend, each) for each in activations] + [on(backend, each) for each in parameters]
    before = [backend.to_host(each) for each in there]
    results = case.call(backend, *there)
    results, truths = (each if isinstance(each, tuple) else (each,) for each in (results, truths))
    assert len(results) == len(case.results)
    for index, (result, truth, kind) in enumerate(zip(results, truths, case.results, strict=True)):
        what = f"{name}, result {index}"
        assert result.dtype == (backend.compute_dtype if kind == "a" else backend.dtype), what
        assert_rounded_once(backend, result, truth, what)
    for array, old in zip(there, before, strict=True):
        np.testing.assert_array_equal(backend.to_host(array), old, err_msg=f"{name} changed an argument")


@pytest.mark.parametrize("name", row_cases((1, 1)))
@pytest.mark.parametrize("shape", ROWS)
def test_rows(backend: Any, name: str, shape: Shape, rng: np.random.Generator) -> None:
    check(backend, name, row_cases(shape)[name], rng)


@pytest.mark.parametrize("name", flat_cases((1,)))
@pytest.mark.parametrize("shape", FLAT)
def test_elements(backend: Any, name: str, shape: Shape, rng: np.random.Generator) -> None:
    check(backend, name, flat_cases(shape)[name], rng)


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize("inverse", [False, True])
def test_rope(backend: Any, pairing: str, inverse: bool, rng: np.random.Generator) -> None:
    case = Case(
        lambda b, x, cos, sin: b.rope(x, cos, sin, pairing, inverse), [(2, 5, 3, 10)], [(2, 5, 4), (2, 5, 4)], "a"
    )
    check(backend, "rope", case, rng)


@pytest.mark.parametrize(("rows", "width"), [(0, 4), (1, 1), (9, 20), (300, 9)])
def test_a_bias_is_added_in_place(backend: Any, rows: int, width: int, rng: np.random.Generator) -> None:
    y, bias = rounded(backend, rng.normal(size=(rows, width))), np.float32(rng.normal(size=width))
    there = activation(backend, y)
    backend.add_bias(there, on(backend, bias))
    assert there.dtype == backend.compute_dtype
    assert_rounded_once(backend, there, y + bias, "add_bias")


def test_flags_keep_or_drop(backend: Any, rng: np.random.Generator) -> None:
    x, kept = rounded(backend, rng.normal(size=(5, 13))), rng.random((5, 13)) < 0.5
    there, flags = activation(backend, x), on(backend, kept)
    np.testing.assert_array_equal(backend.to_host(backend.keep_where(there, flags)), x * kept)
    backend.keep_where(there, flags, out=there)
    np.testing.assert_array_equal(backend.to_host(there), x * kept)


def test_embedding_rounds_a_table_of_float32(backend: Any, rng: np.random.Generator) -> None:
    table, ids = np.float32(rng.normal(size=(7, 9))), np.array([3, 0, 3, 6], np.int32)
    rows = backend.embedding(on(backend, table), on(backend, ids))
    assert rows.dtype == backend.compute_dtype
    np.testing.assert_array_equal(backend.to_host(rows), rounded(backend, table)[ids])
    same = backend.embedding(activation(backend, table), on(backend, ids))
    np.testing.assert_array_equal(backend.to_host(same), rounded(backend, table)[ids])


def test_embedding_gradients_add_up_in_float32(backend: Any, rng: np.random.Generator) -> None:
    """Ones that bfloat16 could not count beyond 256."""
    dy, ids = rounded(backend, rng.normal(size=(50, 70))), rng.integers(0, 4, 50).astype(np.int32)
    out, expected = backend.zeros((4, 70)), np.zeros((4, 70))
    backend.embedding_backward(activation(backend, dy), on(backend, ids), out)
    np.add.at(expected, ids, dy)
    assert_close(backend.to_host(out), expected, 1e-6)
    many = backend.zeros((3, 70))
    ones = activation(backend, np.ones((999, 70)))
    backend.embedding_backward(ones, on(backend, np.ones(999, np.int32)), many)
    np.testing.assert_array_equal(backend.to_host(many), [[0.0] * 70, [999.0] * 70, [0.0] * 70])


def test_rows_are_taken_and_put_back(backend: Any, rng: np.random.Generator) -> None:
    x, rows = rounded(backend, rng.normal(size=(6, 11))), on(backend, np.array([4, 0, 5], np.int32))
    taken = backend.take_rows(activation(backend, x), rows)
    assert taken.dtype == backend.compute_dtype
    np.testing.assert_array_equal(backend.to_host(taken), x[[4, 0, 5]])
    out = activation(backend, np.zeros((6, 11)))
    backend.put_rows(rows, taken, out)
    expected = np.zeros((6, 11))
    expected[[4, 0, 5]] = x[[4, 0, 5]]
    np.testing.assert_array_equal(backend.to_host(out), expected)


# products

PRODUCTS = [(1, 1, 1), (5, 3, 7), (33, 17, 65), (128, 96, 40)]


@pytest.mark.parametrize("size", PRODUCTS)
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
@pytest.mark.parametrize("mixed", ["", "a", "b"])
def test_products_of_activations_and_parameters(
    backend: Any, size: tuple[int, int, int], transposed: str, mixed: str, rng: np.random.Generator
) -> None:
    """A float32 operand is rounded to bfloat16 first; the result is bfloat16, or float32 where that is asked for."""
    m, inner, n = size
    a, b = np.float32(rng.normal(size=(m, inner))), np.float32(rng.normal(size=(inner, n)))
    truth = rounded(backend, a) @ rounded(backend, b)

    def there(name: str, values: np.ndarray) -> Any:
        make = on if name in mixed else activation
        return make(backend, values.T).T if name in transposed else make(backend, values)

    product = backend.gemm(there("a", a), there("b", b))
    assert product.dtype == backend.compute_dtype
    assert_rounded_once(backend, product, truth, "gemm")
    wide = backend.gemm(there("a", a), there("b", b), dtype=backend.dtype)
    assert wide.dtype == backend.dtype
    assert_close(backend.to_host(wide), truth, 2e-6)


def test_a_product_of_float32_may_be_asked_for_in_bfloat16(backend: Any, rng: np.random.Generator) -> None:
    """As the gradient of logits is, times a trainable output matrix."""
    a, b = rng.normal(size=(33, 17)), rng.normal(size=(17, 40))
    for asked in ({"dtype": backend.compute_dtype}, {"out": backend.empty((33, 40), backend.compute_dtype)}):
        product = backend.gemm(on(backend, a), on(backend, b), **asked)
        assert product.dtype == backend.compute_dtype
        assert_close(backend.to_host(product), a @ b, 1e-2)


def test_products_of_float32_are_not_rounded(backend: Any, rng: np.random.Generator) -> None:
    a, b = np.float32(rng.normal(size=(5, 30))), np.float32(rng.normal(size=(30, 4)))
    product = backend.gemm(on(backend, a), on(backend, b))
    assert product.dtype == backend.dtype
    assert_close(backend.to_host(product), a.astype(np.float64) @ b, 2e-6)


def test_weight_gradients_add_up_in_float32(backend: Any, rng: np.random.Generator) -> None:
    """What a micro-batch adds is far below bfloat16's resolution of what is there."""
    dy, x = rounded(backend, 1e-3 * rng.normal(size=(40, 6))), rounded(backend, rng.normal(size=(40, 9)))
    grad = on(backend, 1000 + rng.normal(size=(6, 9)))
    before = backend.to_host(grad).astype(np.float64)
    backend.gemm(activation(backend, dy).T, activation(backend, x), grad, alpha=0.5, beta=1.0)
    np.testing.assert_allclose(backend.to_host(grad), before + 0.5 * dy.T @ x, rtol=1e-7)


def test_a_product_may_add_to_activations(backend: Any, rng: np.random.Generator) -> None:
    a, b, c = (rounded(backend, rng.normal(size=shape)) for shape in ((7, 5), (5, 12), (7, 12)))
    out = activation(backend, c)
    backend.gemm(activation(backend, a), activation(backend, b), out, alpha=2.0, beta=-1.0)
    assert out.dtype == backend.compute_dtype
    assert_rounded_once(backend, out, 2 * a @ b - c, "gemm")


@pytest.mark.parametrize("n_rows", [0, 1, 33])
def test_linear_of_a_frozen_weight(backend: Any, n_rows: int, rng: np.random.Generator) -> None:
    x, dy, weight = rng.normal(size=(n_rows, 40)), rng.normal(size=(n_rows, 67)), rng.normal(size=(67, 40))
    handle = backend.prepare_weight(on(backend, weight))
    assert handle.n_bytes == 2 * 67 * 40
    x, dy, weight = (rounded(backend, each) for each in (x, dy, weight))
    y, dx = (backend.linear(activation(backend, x), handle), backend.linear_input_grad(activation(backend, dy), handle))
    assert y.dtype == dx.dtype == backend.compute_dtype
    assert_rounded_once(backend, y, x @ weight.T, "linear")
    assert_rounded_once(backend, dx, dy @ weight, "linear_input_grad")
    logits = backend.linear(activation(backend, x), handle, dtype=backend.dtype)
    assert logits.dtype == backend.dtype
    assert_close(backend.to_host(logits), x @ weight.T, 2e-6)


# conversion


def test_every_bfloat16_becomes_the_float32_of_its_bits(backend: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = backend.cast(backend.runtime.to_device(bits.view(backend.runtime.bfloat16)), np.dtype(np.float32))
    found = backend.runtime.to_host(wide)
    np.testing.assert_array_equal(found.view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("low", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_float32_becomes_the_nearest_bfloat16_and_ties_become_even(backend: Any, low: int) -> None:
    """Over all upper halves: zeros, subnormals, what rounds up to infinity, infinities and NaNs among them."""
    high = np.arange(1 << 16, dtype=np.uint32)
    values = (high << 16 | np.uint32(low)).view(np.float32)
    found = backend.runtime.to_host(backend.cast(backend.runtime.to_device(values), backend.runtime.bfloat16))
    up = (low > 0x8000) | ((low == 0x8000) & (high % 2 == 1))
    nearest, is_nan = high + up, np.isnan(values)
    np.testing.assert_array_equal(found.view(np.uint16)[~is_nan], nearest[~is_nan])
    assert np.isnan(found.astype(np.float32)[is_nan]).all()
    np.testing.assert_array_equal(found[~is_nan], values[~is_nan].astype(backend.runtime.bfloat16))


# alignment

SIZES = [1, 3, 4, 5, 7, 8, 9, 31, 32, 1000, 2047]


@pytest.mark.parametrize("name", flat_cases((1,)))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_views_that_are_not_aligned_give_the_same_bits(
    backend: Any, name: str, dtype: str, rng: np.random.Generator
) -> None:
    """Packs of 16 bytes and single elements do the same, for sizes that are no multiple of a pack too."""
    element = getattr(backend.runtime, dtype) if dtype == "bfloat16" else np.dtype(dtype)
    for size in SIZES:
        case = flat_cases((size,))[name]
        inputs = [rng.normal(size=shape) for shape in case.activations]
        whole = case.call(backend, *(activation(backend, each, 0, element) for each in inputs))
        for shifted in range(len(inputs)):
            arrays = [activation(backend, each, int(k == shifted), element) for k, each in enumerate(inputs)]
            assert backend.runtime.address(arrays[shifted]) % 16 == element.itemsize
            parts = case.call(backend, *arrays)
            for one, other in zip(
                *(each if isinstance(each, tuple) else (each,) for each in (whole, parts)), strict=True
            ):
                np.testing.assert_array_equal(backend.runtime.to_host(one), backend.runtime.to_host(other))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offset", [0, 1, 4])
def test_nothing_is_written_beside_an_output(backend: Any, dtype: str, offset: int) -> None:
    element = getattr(backend.runtime, dtype) if dtype == "bfloat16" else np.dtype(dtype)
    for size in SIZES:
        buffer = activation(backend, np.full(size + 20, 7.0), 0, element)
        out = buffer[offset : offset + size]
        backend.scale(activation(backend, np.ones(size), 0, element), 3.0, out=out)
        expected = np.full(size + 20, 7.0)
        expected[offset : offset + size] = 3
        np.testing.assert_array_equal(backend.to_host(buffer), expected)
