"""What is said about a machine where the GPU cannot be used, and what to do there."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from entrenar_core.backend.cuda_probe import Gpu, driver_cuda_version, find_gpu
from entrenar_core.errors import DeviceError, MissingExtraError
from tests.cuda_host.fake_driver import T4, install_driver, remove_cupy


def refusal(kind: type[DeviceError] | type[MissingExtraError] = DeviceError) -> tuple[str, str]:
    with pytest.raises(kind) as found:
        find_gpu()
    assert found.value.hint is not None and found.value.hint.endswith("or choose the device cpu")
    return found.value.message, found.value.hint


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed here")
def test_this_machine_without_cupy() -> None:
    message, hint = refusal(MissingExtraError)
    assert message == "computing on a GPU needs CuPy, which is not installed"
    assert "pip install 'entrenar[cuda1" in hint


@pytest.mark.nvrtc
def test_this_machine_with_cupy_and_no_driver() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed (pip install 'entrenar[nvrtc]')")
    if driver_cuda_version() is None:
        assert refusal()[0] == "CuPy is installed, but there is no NVIDIA driver"


@pytest.mark.parametrize(
    ("driver", "command"),
    [
        (None, "`pip install 'entrenar[cuda13]'` (or cuda12, for an NVIDIA driver older than 580)"),
        (13000, "`pip install 'entrenar[cuda13]'`"),
        (14000, "`pip install 'entrenar[cuda13]'`"),
        (12040, "`pip install 'entrenar[cuda12]'`"),
    ],
)
def test_without_cupy_the_extra_is_the_one_for_the_driver(
    monkeypatch: pytest.MonkeyPatch, driver: int | None, command: str
) -> None:
    remove_cupy(monkeypatch, driver=driver)
    message, hint = refusal(MissingExtraError)
    assert message == "computing on a GPU needs CuPy, which is not installed"
    assert hint == f"{command}, or choose the device cpu"


def test_cupy_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, driver=0, error=35)
    message, hint = refusal()
    assert message == "CuPy is installed, but there is no NVIDIA driver"
    assert hint.startswith("install NVIDIA's driver (in a container: start it with --gpus all)")


def test_a_driver_for_cuda_12_and_cupy_for_13(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, driver=12040, error=35)
    message, hint = refusal()
    assert message == "the NVIDIA driver is too old: it supports CUDA 12.4, and CuPy is built for 13.2"
    assert hint.startswith("update NVIDIA's driver to 580 or later, install the build for CUDA 12")
    assert "(`pip uninstall -y cupy-cuda13x`, then `pip install 'entrenar[cuda12]'`)" in hint


def test_a_driver_that_is_too_old_for_any_build(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, driver=11080, runtime=12090, error=35, builds=("cupy-cuda12x",))
    message, hint = refusal()
    assert message == "the NVIDIA driver is too old: it supports CUDA 11.8, and CuPy is built for 12.9"
    assert hint == "update NVIDIA's driver to 525 or later, or choose the device cpu"


def test_a_driver_that_only_cuda_finds_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, driver=13000, error=35)
    assert refusal()[0] == "the NVIDIA driver is too old: it supports CUDA 13.0, and CuPy is built for 13.2"


def test_a_driver_that_is_newer_than_cupy_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, driver=13020, runtime=12090, builds=("cupy-cuda12x",))
    assert find_gpu() == Gpu("NVIDIA H100 80GB HBM3", (9, 0), 79 * 2**30)


@pytest.mark.parametrize("how", [{"error": 100}, {"devices": ()}], ids=["no device", "a count of 0"])
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, how: dict[str, object]) -> None:
    install_driver(monkeypatch, **how)  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert refusal() == (
        "there is an NVIDIA driver, but it shows no GPU",
        "`nvidia-smi` lists the GPUs of this machine; or choose the device cpu",
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refusal()[1].startswith("CUDA_VISIBLE_DEVICES is ''")


def test_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, devices=(T4,))
    message, _ = refusal()
    assert message == (
        "Tesla T4 (15 GiB, compute capability 7.5) is too old: bfloat16 needs compute capability 8.0, which GPUs have"
        " since Ampere (2020)"
    )


def test_a_gpu_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, error=802)
    assert refusal()[0] == "CUDA cannot be started: cudaError 802: something is wrong"


def test_two_builds_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, builds=("cupy-cuda12x", "cupy-cuda13x"))
    with pytest.raises(DeviceError, match=r"2 builds of CuPy are installed.*: cupy-cuda12x, cupy-cuda13x") as found:
        find_gpu()
    assert found.value.hint == ("`pip uninstall -y cupy-cuda12x cupy-cuda13x`, then `pip install 'entrenar[cuda13]'`")


def test_cupy_without_the_libraries_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, has_libraries=False)
    message, hint = refusal(MissingExtraError)
    assert message.startswith("CuPy is installed without the libraries of CUDA 13: ")
    assert hint.startswith("`pip install 'entrenar[cuda13]'`")


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch)
    assert str(find_gpu()) == "NVIDIA H100 80GB HBM3 (79 GiB, compute capability 9.0)"


def test_nothing_of_cuda_is_imported_with_the_engine() -> None:
    watched = "import sys, entrenar_core.backend.select, entrenar_core.stages.train, entrenar_cli.main;"
    listed = " print([name for name in sys.modules if name.split('.')[0] in ('cupy', 'cupy_backends', 'ml_dtypes')])"
    result = subprocess.run([sys.executable, "-c", watched + listed], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
