"""Machines with and without a GPU, as CuPy's runtime API shows them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

PROBE = "entrenar_core.backend.cuda_probe"
H100 = {"name": b"NVIDIA H100 80GB HBM3", "major": 9, "minor": 0, "totalGlobalMem": 79 * 2**30}
T4 = {"name": b"Tesla T4", "major": 7, "minor": 5, "totalGlobalMem": 15 * 2**30}


class CUDARuntimeError(RuntimeError):
    """`cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}: something is wrong")
        self.status = status


class FakeDriver(SimpleNamespace):
    """`cupy.cuda.runtime` of a machine. `error` is the status of cudaGetDeviceCount."""

    driver: int
    runtime: int
    devices: list[dict[str, Any]]
    error: int

    CUDARuntimeError = CUDARuntimeError

    def driverGetVersion(self) -> int:
        return self.driver

    def runtimeGetVersion(self) -> int:
        return self.runtime

    def getDeviceCount(self) -> int:
        if self.error:
            raise CUDARuntimeError(self.error)
        return len(self.devices)

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        return self.devices[device]


def install_driver(
    monkeypatch: pytest.MonkeyPatch,
    *,
    driver: int = 13020,
    runtime: int = 13020,
    devices: tuple[dict[str, Any], ...] = (H100,),
    error: int = 0,
    builds: tuple[str, ...] = ("cupy-cuda13x",),
    has_libraries: bool = True,
) -> None:
    """Let CuPy be installed on a machine with this driver and these GPUs."""
    cupy = ModuleType("cupy")
    cupy.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=FakeDriver(driver=driver, runtime=runtime, devices=list(devices), error=error)
    )
    libs: Any = ModuleType("cupy_backends.cuda.libs")
    if has_libraries:
        libs.cublas, libs.nvrtc = SimpleNamespace(), SimpleNamespace(getVersion=lambda: (13, 0))
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libs)
    monkeypatch.setattr(f"{PROBE}._installed", lambda names: [name for name in names if name in builds])
    monkeypatch.setattr(f"{PROBE}.driver_cuda_version", lambda: driver or None)


def remove_cupy(monkeypatch: pytest.MonkeyPatch, *, driver: int | None = None) -> None:
    """Let CuPy be absent, also where it is installed."""
    monkeypatch.setattr(f"{PROBE}.find_spec", lambda name: None)
    monkeypatch.setattr(f"{PROBE}._installed", lambda names: [])
    monkeypatch.setattr(f"{PROBE}.driver_cuda_version", lambda: driver)
