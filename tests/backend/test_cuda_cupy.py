"""`CupyRuntime` asks CuPy for the right things: on a CuPy whose GPU is the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_cupy import CupyRuntime
from entrenar_core.backend.cuda_source import kernel
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import DeviceMemoryError
from tests.cuda_host import fake_cupy, host_runtime
from tests.cuda_host.device_array import DeviceArray
from tests.cuda_host.host_stream import stream

MIB = 2**20

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[fake_cupy.FakeCupy, fake_cupy.FakeCublas]:
    return fake_cupy.install(monkeypatch)


@pytest.fixture
def runtime(fakes: Any) -> Iterator[CupyRuntime]:
    made = CupyRuntime()
    yield made
    made.close()


@pytest.mark.parametrize("shape", [(3, 4), (5,), (), (0, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_values_come_back_as_they_went(runtime: CupyRuntime, shape: tuple[int, ...], dtype: str) -> None:
    wanted = runtime.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    values = (np.arange(np.prod(shape)).reshape(shape) % 2 + 1).astype(wanted)
    back = runtime.to_host(runtime.to_device(values))
    assert back.dtype == wanted and back.shape == shape and (back == values).all()


def test_a_view_comes_back_as_it_is_seen(runtime: CupyRuntime) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert (runtime.to_host(runtime.to_device(values)[1:, ::2].T) == values[1:, ::2].T).all()
    assert (runtime.to_host(runtime.to_device(values.T)) == values.T).all()


def test_a_small_copy_is_queued_and_outlives_its_source(runtime: CupyRuntime) -> None:
    values = np.full(1000, 3, np.int32)
    arrays = [runtime.to_device(values + i) for i in range(3)]
    values[...] = 0
    assert stream.queued - stream.done == 3
    assert [int(runtime.to_host(array)[999]) for array in arrays] == [3, 4, 5]


def test_pinned_memory_is_let_go_once_its_copy_is_made(runtime: CupyRuntime) -> None:
    for _ in range(3):
        runtime.to_device(np.zeros(8, np.float32))
    assert len(runtime._under_way) == 3
    runtime.synchronize()
    runtime.to_device(np.zeros(8, np.float32))
    assert len(runtime._under_way) == 1


def test_a_large_copy_takes_no_pinned_memory(runtime: CupyRuntime) -> None:
    values = np.arange(4 * MIB + 1, dtype=np.float32)
    queued = stream.queued
    assert (runtime.to_host(runtime.to_device(values)) == values).all()
    assert stream.queued == queued


def test_zeros_are_zero_and_addresses_those_of_the_first_element(runtime: CupyRuntime) -> None:
    array = runtime.zeros((4, 3), np.float32)
    assert not runtime.to_host(array).any()
    assert runtime.address(array[2:]) == runtime.address(array) + 2 * 3 * 4


def test_kernels_get_addresses_numbers_and_null(runtime: CupyRuntime, rng: np.random.Generator) -> None:
    reference = ReferenceBackend(np.float32)
    backend = CudaBackend(runtime, "float32")
    x, dy = (rng.standard_normal((5, 12), np.float32) for _ in range(2))
    weight = rng.standard_normal(12, np.float32)
    on_device = [backend.asarray(each) for each in (dy, x, weight)]
    _, inverse = backend.rms_norm(*on_device[1:], 1e-5)
    found = backend.rms_norm_backward(*on_device, inverse, need_weight=True)
    expected = reference.rms_norm_backward(dy, x, weight, reference.rms_norm(x, weight, 1e-5)[1], need_weight=True)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.to_host(ours), theirs, rtol=1e-5, atol=1e-6)


def test_a_file_is_loaded_once_for_each_element(runtime: CupyRuntime) -> None:
    for dtype in (np.float32, runtime.bfloat16, np.float32):
        backend = CudaBackend(runtime, np.dtype(dtype).name)
        x = backend.cast(backend.asarray(np.ones((2, 4))), dtype)
        assert (backend.to_host(backend.add(x, backend.multiply(x, x))) == 2).all()
    assert sorted(runtime._modules) == [("elementwise", "bfloat16"), ("elementwise", "float32")]


def test_a_kernel_is_granted_the_shared_memory_it_asks_for(runtime: CupyRuntime) -> None:
    scale, x = kernel("elementwise", "scale", "float32"), runtime.to_device(np.ones(4, np.float32))
    for shared_bytes in (0, 100 * 1024, 50 * 1024, 200 * 1024):
        runtime.launch(scale, (1, 1, 1), 32, scale.checked([x, 2.0, x, 4]), shared_bytes)
    assert (runtime.to_host(x) == 16).all()


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("batch", [(), (1,), (3,)], ids=str)
def test_products(
    runtime: CupyRuntime, fakes: Any, rng: np.random.Generator, batch: tuple[int, ...], dtypes: tuple[str, str]
) -> None:
    named = {"float32": np.dtype(np.float32), "bfloat16": runtime.bfloat16}
    operand, result = (named[name] for name in dtypes)
    a, b = (rng.standard_normal((*batch, *shape), np.float32).astype(operand) for shape in ((4, 8), (5, 8)))
    out = rng.standard_normal((*batch, 4, 5), np.float32).astype(result)
    on_device = runtime.to_device(out)
    transposed = DeviceArray(runtime.to_device(b).host.swapaxes(-1, -2))
    runtime.gemm(runtime.to_device(a), transposed, on_device, 0.5, -2.0)
    expected = 0.5 * a.astype(np.float32) @ b.astype(np.float32).swapaxes(-1, -2) - 2 * out.astype(np.float32)
    tolerance = 2**-8 if result == runtime.bfloat16 else 1e-6
    np.testing.assert_allclose(
        runtime.to_host(on_device).astype(np.float32), expected, rtol=tolerance, atol=20 * tolerance
    )
    assert fakes[1].calls == ["gemmStridedBatchedEx" if batch == (3,) else "gemmEx"]


def test_memory_is_counted_as_the_pool_holds_it(runtime: CupyRuntime) -> None:
    before = runtime.memory()
    runtime.empty((MIB,), np.uint8)
    kept = runtime.xp.empty((MIB // 2,), np.uint8)
    after = runtime.memory()
    assert kept.nbytes == MIB // 2
    assert runtime.peak_bytes() == after.peak == before.peak + MIB
    assert (after.in_use - before.in_use, after.held - before.held) == (MIB // 2, MIB)
    assert before.free - after.free == MIB and after.total == fake_cupy.GIB


def test_no_room_is_one_message_with_what_to_change(runtime: CupyRuntime, fakes: Any) -> None:
    kept = runtime.empty((100 * MIB,), np.uint8)
    runtime.empty((50 * MIB,), np.uint8)
    fakes[0].pool.limit = 300 * MIB
    with pytest.raises(DeviceMemoryError) as failure:
        runtime.empty((250 * MIB,), np.uint8)
    assert failure.value.message == (
        "the GPU has no room for 250.0 MiB more: of its 1.0 GiB 150.0 MiB are free, and this run holds 150.0 MiB"
        " (50.0 MiB of it in pieces that are too small)"
    )
    for key in ("batch_size", "seq_len", "activation_checkpointing", "lora", "quantize", "compute_dtype"):
        assert key in (failure.value.hint or "")
    assert failure.value.exit_code == 1
    del kept


def test_what_cupy_allocates_for_itself_is_counted_and_refused_alike(runtime: CupyRuntime, fakes: Any) -> None:
    fakes[0].pool.limit = MIB
    with pytest.raises(DeviceMemoryError):
        fakes[0].empty((2 * MIB,), np.uint8)


def test_the_gpu_and_its_libraries_are_what_bits_depend_on(runtime: CupyRuntime) -> None:
    assert CudaBackend(runtime, "bfloat16").environment() == {
        "gpu": "Test GPU",
        "cupy": "14.2.0",
        "cublas": "130201",
        "compute_dtype": "bfloat16",
    }


def test_closing_gives_everything_back(fakes: Any) -> None:
    cupy, cublas = fakes
    allocator = cupy.allocator
    runtime = CupyRuntime()
    assert cupy.allocator != allocator
    runtime.to_device(np.zeros(8, np.float32))
    runtime.close()
    runtime.close()
    assert cupy.allocator == allocator and not cublas.handles and stream.done == stream.queued
    assert cupy.pool.total_bytes() == 0
