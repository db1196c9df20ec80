"""Fake quantization of the CUDA backend, bit for bit the codec's: on awkward values, through kernels and the host."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_rounding import BLOCK_TYPES, FLOAT_TYPES, SEARCHED_TYPES, WEIGHTED_TYPES, has_kernel
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from entrenar_core.codecs.round_trip import round_trip
from entrenar_core.errors import FormatError
from entrenar_core.quant.granularity import RowScaleEncoder
from tests.codecs.blocks import adversarial_blocks, random_rows
from tests.cuda_host import host_runtime

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
NDArray = np.ndarray[Any, np.dtype[Any]]
KERNEL_TYPES = (*BLOCK_TYPES, *FLOAT_TYPES)


@pytest.fixture(scope="module")
def device() -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), "float32")


def awkward_blocks() -> NDArray:
    """Blocks of zeros of both signs, ties of magnitude, of rounding, subnormals, and ranges near float16's ends."""
    rng = np.random.default_rng(11)
    blocks = [np.zeros(32), -np.zeros(32), np.where(np.arange(32) % 2, 0.0, -0.0)]
    blocks += [np.tile([1.0, -1.0], 16), np.tile([-1.0, 1.0], 16), np.linspace(-1, 1, 32), np.arange(32) - 8.0]
    blocks += [np.full(32, value) for value in (1.0, -3.0, 1e-45, 1e-38, 6e-8, -5.96e-8, 65504.0)]
    blocks += [np.arange(32) * size for size in (1e-44, 1e-39, 1e-10, 2.0**-24, 1e3)]
    blocks += [(np.arange(32) - 16) * size for size in (1e-41, 2.0**-20, 0.5, 1.0, 1 / 3)]
    blocks += [rng.standard_normal(32) * 10.0**power for power in range(-40, 5)]
    blocks += [rng.integers(-8, 8, 32) * 0.125 for _ in range(20)]
    return np.array(blocks, np.float64).astype(np.float32)


def assert_as_the_codec(
    device: CudaBackend, values: NDArray, type_name: str, importance: NDArray | None = None
) -> None:
    codec = codec_for(type_name)
    flags, found_flags = np.empty(values.shape, np.bool_), device.zeros(values.shape, np.bool_)
    expected = round_trip(codec, values, importance, inside=flags)
    found = device.to_host(device.fake_quantize(device.asarray(values), codec, importance, inside=found_flags))
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
    np.testing.assert_array_equal(device.to_host(found_flags), flags)


def test_every_type_that_is_written_has_a_kernel() -> None:
    assert all(has_kernel(codec_for(name)) for name in ENCODABLE)


@pytest.mark.parametrize("type_name", (*KERNEL_TYPES, "F32"))
def test_awkward_values_are_those_of_the_codec(device: CudaBackend, type_name: str) -> None:
    assert_as_the_codec(device, awkward_blocks(), type_name)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@given(
    values=arrays.arrays(
        np.float32, (2, 32), elements=st.floats(-60000, 60000, width=32, allow_subnormal=True), fill=st.nothing()
    )
)
def test_any_finite_block_is_that_of_the_codec(device: CudaBackend, type_name: str, values: NDArray) -> None:
    assert_as_the_codec(device, values, type_name)


@pytest.mark.parametrize("type_name", SEARCHED_TYPES)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_searched_values_are_those_of_the_codec(device: CudaBackend, type_name: str, is_weighted: bool) -> None:
    """Of sizes that differ from part to part, that lie at the ends of float16, and of all kinds of awkwardness."""
    rng = np.random.default_rng(8)
    normal = rng.standard_normal((7, 256)).astype(np.float32)
    awkward = [np.resize(blocks, (len(blocks) // 8 + 1, 256)) for blocks in (awkward_blocks(), adversarial_blocks())]
    rows = np.concatenate([*awkward, normal, normal * 1e-6, normal * 1e4]).clip(-1e6, 1e6).astype(np.float32)
    for values in (random_rows(13, 768), rows):
        importance = rng.uniform(0, 2, values.shape[1]).astype(np.float32)
        importance[40:72] = 0
        assert_as_the_codec(device, values, type_name, importance if is_weighted else None)


@pytest.mark.parametrize("type_name", SEARCHED_TYPES)
@given(values=arrays.arrays(np.float32, (1, 256), elements=st.floats(-1e5, 1e5, width=32, allow_subnormal=True)))
def test_any_finite_searched_block_is_that_of_the_codec(device: CudaBackend, type_name: str, values: NDArray) -> None:
    assert_as_the_codec(device, values, type_name)


@pytest.mark.parametrize("type_name", [*BLOCK_TYPES, *SEARCHED_TYPES])
def test_neither_the_order_of_threads_nor_where_memory_begins_shows(type_name: str) -> None:
    values, backwards = random_rows(3, 256), CudaBackend(host_runtime.HostRuntime(descending=True), "float32")
    shifted = backwards.asarray(np.concatenate([[0.0], values.reshape(-1)]))[1:].reshape(3, 256)
    found = backwards.to_host(backwards.fake_quantize(shifted, codec_for(type_name)))
    np.testing.assert_array_equal(found, round_trip(codec_for(type_name), values))


@pytest.mark.parametrize("type_name", [*BLOCK_TYPES, *SEARCHED_TYPES])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("importance", [None, np.ones(768, np.float32)], ids=["plain", "weighted"])
def test_what_does_not_fit_is_refused_as_by_the_codec(
    device: CudaBackend, type_name: str, bad: float, importance: NDArray | None
) -> None:
    values = random_rows(20, 768)
    values[17, 400] = values[18, 3] = bad
    messages = []
    for quantize in (
        lambda: round_trip(codec_for(type_name), values, importance),
        lambda: device.fake_quantize(device.asarray(values), codec_for(type_name), importance),
    ):
        with pytest.raises(FormatError, match=r"\(row 17, column 400\)") as refused:
            quantize()
        messages.append(refused.value.message)
    assert messages[0] == messages[1]


@pytest.mark.parametrize(("type_name", "bad"), [("F16", 70000.0), ("BF16", 3.4e38)])
def test_a_float_that_would_become_infinite_is_refused(device: CudaBackend, type_name: str, bad: float) -> None:
    values = np.random.default_rng(4).standard_normal((3, 7)).astype(np.float32)
    values[1, 2] = bad
    with pytest.raises(FormatError, match=type_name):
        device.fake_quantize(device.asarray(values), codec_for(type_name))
    values[1, 2] = np.nan
    values[0, 0] = np.inf
    found = device.to_host(device.fake_quantize(device.asarray(values), codec_for(type_name)))
    np.testing.assert_array_equal(found, round_trip(codec_for(type_name), values))


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_weighted_values_are_those_of_the_codec(device: CudaBackend, type_name: str) -> None:
    """An importance of 0 for whole blocks, and weights that add up to nothing or to infinity, among others."""
    rng = np.random.default_rng(8)
    awkward = [np.resize(blocks, (len(blocks) // 3 + 1, 96)) for blocks in (awkward_blocks(), adversarial_blocks())]
    normal = rng.standard_normal((40, 96)).astype(np.float32)
    values = np.concatenate([*awkward, normal, normal * 1e-7, normal * 5e3 + 1]).clip(-6e4, 6e4).astype(np.float32)
    for importance in (rng.uniform(0, 2, 96), np.where(np.arange(96) < 40, 0, 1e30), np.zeros(96)):
        assert_as_the_codec(device, values, type_name, importance.astype(np.float32))


@pytest.mark.parametrize("type_name", WEIGHTED_TYPES)
@given(
    values=arrays.arrays(np.float32, (1, 64), elements=st.floats(-6e4, 6e4, width=32, allow_subnormal=True)),
    importance=arrays.arrays(np.float32, (64,), elements=st.floats(0, 1e6, width=32)),
)
def test_any_finite_weighted_block_is_that_of_the_codec(
    device: CudaBackend, type_name: str, values: NDArray, importance: NDArray
) -> None:
    assert_as_the_codec(device, values, type_name, importance)


def test_scales_that_blocks_share_go_through_the_host(device: CudaBackend) -> None:
    values, shared = random_rows(6, 64), RowScaleEncoder("Q4_0")
    assert not has_kernel(shared)
    found = device.to_host(device.fake_quantize(device.asarray(values), shared))
    np.testing.assert_array_equal(found, round_trip(shared, values))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K"])
def test_an_importance_that_does_not_fit_is_refused(device: CudaBackend, type_name: str) -> None:
    values, codec = device.zeros((2, 256)), codec_for(type_name)
    with pytest.raises(TypeError, match=r"importance must be float32 \[256\]"):
        device.fake_quantize(values, codec, np.ones(32, np.float32))
    with pytest.raises(FormatError, match="negative or not finite"):
        device.fake_quantize(values, codec, np.full(256, -1, np.float32))


def test_a_row_of_no_whole_blocks_is_refused(device: CudaBackend) -> None:
    with pytest.raises(FormatError, match="blocks"):
        device.fake_quantize(device.zeros((2, 33)), codec_for("Q4_0"))
    with pytest.raises(ValueError, match=r"\(32,\) is not \[out, in\]"):
        device.fake_quantize(device.zeros((32,)), codec_for("Q4_0"))


def test_flags_of_another_kind_are_refused(device: CudaBackend) -> None:
    values = device.zeros((2, 32))
    with pytest.raises(ValueError, match=r"flags bool \(1, 32\) do not fit \(2, 32\)"):
        device.keep_where(values, device.zeros((1, 32), np.bool_))
    with pytest.raises(ValueError, match="flags float32"):
        device.keep_where(values, values)
