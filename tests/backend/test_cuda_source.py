"""The kernel files of the CUDA backend: how their signatures are read, and calls that do not fit them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from entrenar_core.backend.cuda_source import (
    ELEMENT_NAMES,
    Kernel,
    Parameter,
    kernel_file,
    kernel_file_names,
    signatures,
    with_header,
)
from tests.cuda_host.device_array import DeviceArray

TEXT = """
__device__ inline float unrelated(const float* x) { return *x; }

extern "C" __global__ void mix(
    const T* x, const float* weight, long long* counts, unsigned long long key,
    int width, bool write) {
}

extern "C" __global__ void __launch_bounds__(256) bounded(T* y) {}
"""


def array(dtype: Any, shape: tuple[int, ...] = (4, 6)) -> DeviceArray:
    return DeviceArray(np.zeros(shape, dtype))


def mix(element: str = "float32") -> Kernel:
    return Kernel("own", "mix", element, signatures(TEXT)["mix"])


def test_parameters_are_read_from_the_text() -> None:
    found = signatures(TEXT)
    assert list(found) == ["mix", "bounded"]
    assert found["mix"] == (
        Parameter("x", "T", is_array=True, is_const=True),
        Parameter("weight", "float", is_array=True, is_const=True),
        Parameter("counts", "long long", is_array=True, is_const=False),
        Parameter("key", "unsigned long long", is_array=False, is_const=False),
        Parameter("width", "int", is_array=False, is_const=False),
        Parameter("write", "bool", is_array=False, is_const=False),
    )
    assert found["bounded"] == (Parameter("y", "T", is_array=True, is_const=False),)


@pytest.mark.parametrize("parameter", ["size_t n", "const half* x", "float4 value", "T value_of_activation, dim3 d"])
def test_a_parameter_of_another_type_is_refused(parameter: str) -> None:
    with pytest.raises(ValueError, match="plain numbers, or arrays"):
        signatures(f'extern "C" __global__ void own({parameter}) {{}}')


@pytest.mark.parametrize(
    "declared",
    [
        "__global__ void own(int n) {}",
        'extern "C" __global__  void own(int n) {}',
        "template <int N> __global__ void k() {}",
    ],
)
def test_a_kernel_that_is_written_otherwise_is_refused(declared: str) -> None:
    with pytest.raises(ValueError, match=r"only \['bounded', 'mix'\] are kernels of the form"):
        signatures(TEXT + declared)


def test_a_file_comes_after_the_headers_that_it_needs_and_is_as_unfused_as_they_are() -> None:
    needs_two = with_header("x", "// needs rounding.cuh parts.cuh\n")
    order = [needs_two.text.index(each) for each in ("typedef ELEMENT T", "half_bits(float", "struct Part", '1 "x.cu"')]
    assert order == sorted(order)
    assert needs_two.is_unfused
    assert not with_header("x", "// nothing else\n").is_unfused
    exact = {name for name in kernel_file_names() if kernel_file(name).is_unfused}
    assert exact == {name for name in kernel_file_names() if name.startswith(("dequantize_", "round_"))}


def test_every_kernel_file_has_kernels_and_no_name_twice() -> None:
    names = [name for file in kernel_file_names() for name in kernel_file(file).signatures]
    assert len(names) == len(set(names)) > 40
    assert all(kernel_file(file).signatures for file in kernel_file_names())


def test_arguments_become_what_the_kernel_reads() -> None:
    x, weight, counts = array(np.float32), array(np.float32), array(np.int64)
    found = mix().checked((x, weight, counts, 2**64 - 1, 7, True))
    assert found[:3] == [x, weight, counts]
    assert [(type(each), int(each)) for each in found[3:]] == [(np.uint64, 2**64 - 1), (np.int32, 7), (np.bool_, 1)]
    assert mix().checked((x, None, counts, 0, 7, False))[1] is None


def test_an_array_of_activations_has_the_kernels_element_type() -> None:
    narrow, wide = array(ml_dtypes.bfloat16), array(np.float32)
    rest = (wide, array(np.int64), 0, 1, True)
    assert mix("bfloat16").checked((narrow, *rest))[0] is narrow
    with pytest.raises(ValueError, match=r"mix: x is float32 \(4, 6\), but contiguous bfloat16 is needed"):
        mix("bfloat16").checked((wide, *rest))
    with pytest.raises(ValueError, match=r"mix: x is bfloat16 \(4, 6\), but contiguous float32 is needed"):
        mix().checked((narrow, *rest))


GOOD = (array(np.float32), array(np.float32), array(np.int64), 0, 1, True)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, array(np.float64), r"mix: x is float64"),
        (2, array(np.int32), r"mix: counts is int32 \(4, 6\), but contiguous int64 is needed"),
        (1, array(np.float32).T, r"mix: weight is float32 \(6, 4\) with gaps"),
        (1, array(np.float32)[:, 1:], r"mix: weight is float32 \(4, 5\) with gaps"),
        (0, np.zeros((4, 6), np.float32), "mix: x is an array of the host"),
        (3, -1, "mix: key = -1 does not fit unsigned long long"),
        (4, 2**31, "mix: width = 2147483648 does not fit int"),
    ],
)
def test_arguments_that_do_not_fit_are_named(place: int, wrong: Any, message: str) -> None:
    arguments = [*GOOD[:place], wrong, *GOOD[place + 1 :]]
    with pytest.raises(ValueError, match=message):
        mix().checked(arguments)


@pytest.mark.parametrize("count", [0, 5, 7])
def test_another_number_of_arguments_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"mix: {count} arguments for 6 parameters"):
        mix().checked((*GOOD, 0)[:count])


@pytest.mark.parametrize("element", ELEMENT_NAMES)
def test_a_kernel_of_a_file_knows_its_place(element: str) -> None:
    found = kernel_file("norm").kernel("rms_norm", element)
    assert (found.file, found.name, found.element) == ("norm", "rms_norm", element)
    assert [parameter.name for parameter in found.parameters] == ["x", "weight", "y", "inv_rms", "width", "eps"]
