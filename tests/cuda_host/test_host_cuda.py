"""The host that runs kernels where there is no GPU: its threads, barriers and shuffles, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda_source import with_header
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import DeviceArray

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

ORDERS = pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
BLOCKS = [32, 64, 96, 256, 992, 1024]


def launch(
    text: str, *arguments: Any, threads: int = 32, grid: tuple[int, int, int] = (1, 1, 1), **options: Any
) -> None:
    """Run the one kernel of a text; `options` as `host_runtime.run` has them."""
    source = with_header("own", text)
    (name,) = source.signatures
    one = source.kernel(name, "float32")
    host_runtime.run(host_runtime.compiled(source, "float32"), one, grid, threads, one.checked(arguments), **options)


def filled(shape: Any, value: float, dtype: Any = np.int32) -> DeviceArray:
    array = host_runtime.HostRuntime().empty(np.atleast_1d(shape), dtype)
    array.fill(value)
    return array


REVERSE = """
extern "C" __global__ void reverse(int* out, int n) {
    __shared__ int shown[1024];
    if (threadIdx.x >= n) {
        return;
    }
    for (int round = 0; round < 3; round++) {
        shown[threadIdx.x] = 10 * round + threadIdx.x;
        __syncthreads();
        out[threadIdx.x] = shown[n - 1 - threadIdx.x];
        __syncthreads();
    }
}
"""


@ORDERS
@pytest.mark.parametrize(("threads", "n"), [(32, 32), (32, 1), (64, 33), (256, 100), (1024, 1024), (1024, 991)])
def test_barriers_hold_threads_back_until_all_that_live_have_come(threads: int, n: int, descending: bool) -> None:
    out = filled(threads, -1)
    launch(REVERSE, out, n, threads=threads, descending=descending)
    np.testing.assert_array_equal(out.host[:n], 20 + np.arange(n)[::-1])
    np.testing.assert_array_equal(out.host[n:], -1)


def test_a_barrier_that_is_missing_shows_in_the_order_of_threads() -> None:
    text = REVERSE.replace("__syncthreads();", "")
    orders = []
    for descending in (False, True):
        out = filled(64, -1)
        launch(text, out, 64, threads=64, descending=descending)
        orders.append(out.host)
    assert (orders[0] != orders[1]).any()


SHUFFLES = """
extern "C" __global__ void shuffles(int* out) {
    const int lane = threadIdx.x % 32, base = 100 * (threadIdx.x / 32);
    int* row = out + 5 * threadIdx.x;
    row[0] = __shfl_xor_sync(ALL_LANES, base + lane, 5);
    row[1] = __shfl_down_sync(ALL_LANES, base + lane, 3);
    row[2] = __shfl_up_sync(ALL_LANES, base + lane, 3);
    row[3] = __shfl_sync(ALL_LANES, base + lane, lane + 1);
    row[4] = __popc(__ballot_sync(ALL_LANES, lane % 3 == 0));
}
"""


@ORDERS
def test_lanes_see_the_values_of_others_of_their_warp(descending: bool) -> None:
    out = filled((96, 5), -1)
    launch(SHUFFLES, out, threads=96, descending=descending)
    lane = np.arange(32)
    down, up = np.where(lane + 3 < 32, lane + 3, lane), np.where(lane >= 3, lane - 3, lane)
    expected = np.stack([lane ^ 5, down, up, (lane + 1) % 32], axis=-1)
    for warp in range(3):
        np.testing.assert_array_equal(out.host[32 * warp : 32 * warp + 32, :4], 100 * warp + expected)
    np.testing.assert_array_equal(out.host[:, 4], 11)


def test_lanes_that_have_ended_are_not_in_a_ballot() -> None:
    text = """
    extern "C" __global__ void votes(int* out) {
        if (threadIdx.x % 2 == 1) {
            return;
        }
        out[threadIdx.x] = __ballot_sync(ALL_LANES, threadIdx.x != 4);
    }
    """
    out = filled(32, 0)
    launch(text, out)
    np.testing.assert_array_equal(out.host[::2], 0x55555555 & ~(1 << 4))


SUMS = """
extern "C" __global__ void sums(const float* x, float* singles, double* doubles, float* largest) {
    const float value = x[blockIdx.x * blockDim.x + threadIdx.x];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    singles[i] = block_sum(value) + block_sum(2.0f * value);
    doubles[i] = block_sum(static_cast<double>(value));
    largest[i] = block_largest(value);
}
"""


@ORDERS
@pytest.mark.parametrize("threads", BLOCKS)
def test_every_thread_gets_the_sum_and_the_largest_of_its_block(threads: int, descending: bool) -> None:
    values = np.random.default_rng(threads).integers(-100, 100, (3, threads)).astype(np.float32)
    singles, doubles, largest = (filled((3, threads), 0, dtype) for dtype in (np.float32, np.float64, np.float32))
    there = host_runtime.HostRuntime().to_device(values)
    launch(SUMS, there, singles, doubles, largest, threads=threads, grid=(3, 1, 1), descending=descending)
    total = np.broadcast_to(values.sum(axis=1, keepdims=True), values.shape)
    np.testing.assert_array_equal(singles.host, 3 * total)
    np.testing.assert_array_equal(doubles.host, total)
    np.testing.assert_array_equal(largest.host, np.broadcast_to(values.max(axis=1, keepdims=True), values.shape))


@pytest.mark.parametrize("place", [0, 37, 63])
def test_the_largest_of_a_block_with_nan_is_nan(place: int) -> None:
    values = np.arange(64, dtype=np.float32)
    values[place] = np.nan
    outs = [filled(64, 0, dtype) for dtype in (np.float32, np.float64, np.float32)]
    launch(SUMS, host_runtime.HostRuntime().to_device(values), *outs, threads=64)
    assert np.isnan(outs[2].host).all()


def test_blocks_know_their_place_in_the_grid() -> None:
    text = """
    extern "C" __global__ void places(int* out) {
        const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        out[block * blockDim.x + threadIdx.x] = 10000 * blockIdx.z + 1000 * blockIdx.y + 100 * blockIdx.x + threadIdx.x;
    }
    """
    out = filled((2, 3, 4, 32), -1)
    launch(text, out, grid=(4, 3, 2))
    z, y, x, thread = np.indices((2, 3, 4, 32))
    np.testing.assert_array_equal(out.host, 10000 * z + 1000 * y + 100 * x + thread)


def test_shared_memory_of_a_block_knows_nothing_of_the_one_before() -> None:
    text = """
    extern "C" __global__ void remember(float* out) {
        DYNAMIC_SHARED(float, memory);
        out[blockIdx.x * blockDim.x + threadIdx.x] = memory[threadIdx.x];
        memory[threadIdx.x] = 1.0f;
    }
    """
    out = filled((2, 32), 0, np.float32)
    launch(text, out, grid=(2, 1, 1), shared_bytes=128)
    assert np.isnan(out.host).all()


def test_a_kernel_that_writes_beside_an_array_is_found() -> None:
    text = 'extern "C" __global__ void stray(int* a, int* b, int at) { if (threadIdx.x == 0) { b[at] = 1; } }'
    launch(text, filled(5, 0), filled(5, 0), 4)
    for at in (5, -1):
        with pytest.raises(AssertionError, match="stray: memory beside b was written"):
            launch(text, filled(5, 0), filled(5, 0), at)
    with pytest.raises(AssertionError, match="beside b"):
        launch(text, filled(5, 0), filled((4, 5), 0)[3], 5)


def test_memory_that_was_not_written_is_nan() -> None:
    runtime = host_runtime.HostRuntime()
    assert np.isnan(runtime.empty((3,), np.float32).host).all()
    assert np.isnan(runtime.empty((3,), runtime.bfloat16).host.astype(np.float32)).all()


ABORTS = {
    "a barrier in one branch, a shuffle in the other": (
        "if (threadIdx.x < 16) { __syncthreads(); } else { x = __shfl_xor_sync(ALL_LANES, x, 1); }",
        "waits at a barrier that others never reach",
    ),
    "a shuffle of half a warp, whose other half waits for the block": (
        "if (threadIdx.x < 48) { x = __shfl_xor_sync(ALL_LANES, x, 1); } __syncthreads();",
        "waits at a barrier that others never reach",
    ),
    "two barriers in two branches": (
        "if (threadIdx.x < 32) { __syncthreads(); }\nelse { __syncthreads(); }",
        "waits at another barrier than the threads before it",
    ),
    "a lane that has ended": (
        "if (threadIdx.x == 3) { return; } x = __shfl_sync(ALL_LANES, x, 3);",
        "asks for a value of a lane that has ended",
    ),
    "part of a warp": (
        "if (threadIdx.x < 16) { x = __shfl_xor_sync(0xffffu, x, 1); }",
        "shuffles with part of its warp",
    ),
    "too large a stack": (
        "volatile char big[128 << 10]; for (int i = (128 << 10) - 1; i >= 0; i--) { big[i] = 1; } x = big[5];",
        "has no room left on its stack",
    ),
}


@pytest.mark.parametrize("what", ABORTS)
def test_what_a_gpu_would_hang_at_or_leave_undefined_aborts(what: str, project_root: Path) -> None:
    body, message = ABORTS[what]
    text = f'extern "C" __global__ void wrong(int* out) {{ int x = 1; {body} out[threadIdx.x] = x; }}'
    script = (
        "import sys\n"
        "from tests.cuda_host.test_host_cuda import filled, launch\n"
        "launch(sys.argv[1], filled(64, 0), threads=64)\n"
        "print('it ended')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, text], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert result.returncode < 0, result.stdout + result.stderr
    assert message in result.stderr
