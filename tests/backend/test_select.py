"""Where a run computes, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.gpu_worth import Work
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.backend.select import DeviceChoice, DeviceWish, choose_device, make_backend
from entrenar_core.errors import DeviceError, MissingExtraError
from tests.cuda_host import fake_cupy, host_runtime
from tests.cuda_host.fake_driver import T4, install_driver, remove_cupy

SELECT = "entrenar_core.backend.select"
LARGE, SMALL = Work("evaluate", 10**9, 2 * 10**9, 10**6), Work("evaluate", 10**6, 10**6, 1000)
ON_CPU = DeviceChoice("cpu", "float32")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an H100."""
    install_driver(monkeypatch)
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: 13020)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither a driver nor CuPy."""
    remove_cupy(monkeypatch)
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: None)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_cpu_computes_and_nothing_is_said() -> None:
    for device in ("auto", "cpu"):
        for dtype in ("auto", "float32"):
            assert choose_device(DeviceWish(device, compute_dtype=dtype), LARGE) == ON_CPU  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_what_needs_one_is_refused() -> None:
    for wish in (DeviceWish("cuda"), DeviceWish(compute_dtype="bfloat16")):
        with pytest.raises(MissingExtraError, match="computing on a GPU needs CuPy, which is not installed"):
            choose_device(wish, LARGE)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(("asked", "dtype"), [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")])
@pytest.mark.usefixtures("gpu")
def test_a_gpu_computes_large_work_in_bfloat16_unless_float32_is_asked_for(device: str, asked: str, dtype: str) -> None:
    choice = choose_device(DeviceWish(device, compute_dtype=asked), LARGE)  # type: ignore[arg-type]
    assert (choice.device, choice.compute_dtype) == ("cuda", dtype)
    assert choice.reason.startswith("computing on NVIDIA H100 80GB HBM3 (79 GiB, compute capability 9.0)")


@pytest.mark.usefixtures("gpu")
def test_small_work_stays_on_the_cpu_unless_the_gpu_is_asked_for() -> None:
    choice = choose_device(DeviceWish(), SMALL)
    assert choice.device == "cpu" and choice.compute_dtype == "float32"
    assert choice.reason.startswith("computing on the CPU: a CPU would take about 0.0 seconds, less than 5 times")
    assert choose_device(DeviceWish("cuda"), SMALL).device == "cuda"
    assert choose_device(DeviceWish(compute_dtype="bfloat16"), SMALL).device == "cuda"
    assert choose_device(DeviceWish("cpu"), LARGE) == ON_CPU


@pytest.mark.usefixtures("gpu")
def test_why_a_gpu_is_worth_it_is_said() -> None:
    assert choose_device(DeviceWish(), LARGE).reason == (
        "computing on NVIDIA H100 80GB HBM3 (79 GiB, compute capability 9.0): a CPU would take about 67 minutes, at"
        " least 5 times the 2 seconds of starting a GPU and copying the model"
    )


@pytest.mark.usefixtures("gpu")
def test_weights_that_do_not_fit_the_gpu_stay_on_the_cpu() -> None:
    choice = choose_device(DeviceWish(), Work("train", 10**10, 2 * 10**10, 10**6))
    assert choice.device == "cpu"
    assert "the weights alone would take 167.6 GiB of NVIDIA H100" in choice.reason


def test_a_gpu_that_cannot_be_used_is_said_where_the_work_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, devices=(T4,))
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: 13020)
    choice = choose_device(DeviceWish(), LARGE)
    assert choice.device == "cpu"
    assert choice.reason.startswith("computing on the CPU: Tesla T4 (15 GiB, compute capability 7.5) is too old")
    assert "less than 5 times" in choose_device(DeviceWish(), SMALL).reason


def test_a_driver_without_cupy_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_cupy(monkeypatch, driver=12080)
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: 12080)
    assert choose_device(DeviceWish(), LARGE).reason == (
        "computing on the CPU: computing on a GPU needs CuPy, which is not installed; `pip install 'entrenar[cuda12]'`"
    )


def test_cupy_without_a_driver_is_neither_imported_nor_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: None)
    monkeypatch.setattr(f"{SELECT}.find_gpu", None)
    assert choose_device(DeviceWish(), LARGE) == ON_CPU


@pytest.mark.usefixtures("gpu")
def test_bfloat16_on_the_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="the CPU computes in float32, not in bfloat16"):
        choose_device(DeviceWish("cpu", compute_dtype="bfloat16"))


def test_auto_and_cpu_make_the_cpu_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SELECT}.driver_cuda_version", lambda: None)
    for device in ("auto", "cpu"):
        wish = DeviceWish(device, threads=2)  # type: ignore[arg-type]
        backend = make_backend(choose_device(wish), wish)
        assert isinstance(backend, CpuBackend) and backend.threads.count == 2
        backend.close()


@pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
def test_cuda_makes_the_backend_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "entrenar_core.backend.cuda_cudnn.open_cudnn", lambda *where: asked.append(where) or "no front end"
    )
    wish = DeviceWish("cuda", deterministic=True)
    backend = make_backend(DeviceChoice("cuda", "bfloat16"), wish)
    assert isinstance(backend, CudaBackend)
    assert backend.compute_dtype.name == "bfloat16"
    assert asked == [(90, 0)]
    q = backend.zeros((1, 2, 1, 8))
    backend.attention(q, q, q, backend.zeros((1, 2), np.int32), AttentionParams(scale=1.0))
    assert backend.attention_paths == {"blocked: no front end": 1}
    backend.close()


def test_a_gpu_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> None:
        raise RuntimeError("cudaErrorDevicesUnavailable")

    monkeypatch.setattr("entrenar_core.backend.cuda_cupy.CupyRuntime", busy)
    with pytest.raises(DeviceError, match="the GPU cannot be started: cudaErrorDevicesUnavailable"):
        make_backend(DeviceChoice("cuda", "bfloat16"), DeviceWish("cuda"))
