"""Whether this machine has a GPU that the CUDA backend can use, and if not, what is missing and how to get it.

Nothing here starts a GPU: no context is made, so asking costs the import of CuPy and no memory of the device.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from entrenar_core.errors import DeviceError, MissingExtraError

LEAST_CAPABILITY = (8, 0)
"""Ampere: the first GPUs that round to bfloat16 in hardware, and multiply it."""

_DRIVER_OF = {13: 580, 12: 525}
"""The oldest NVIDIA driver for each major version of CUDA that an extra installs."""

_BUILDS = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100
USE_CPU = "or choose the device cpu"


@dataclass(frozen=True)
class Gpu:
    """The GPU that is used: the first that CUDA shows."""

    name: str
    capability: tuple[int, int]
    n_bytes: int

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} ({self.n_bytes / 2**30:.0f} GiB, compute capability {major}.{minor})"


def find_gpu() -> Gpu:
    """The GPU that the CUDA backend would use.

    Raises:
        MissingExtraError: CuPy or a library that it needs is not installed.
        DeviceError: there is no driver or an old one, no GPU or an old one.
    """
    cupy = _import_cupy()
    _check_driver(cupy.cuda.runtime)
    gpu = _first_device(cupy.cuda.runtime)
    _check_libraries(cupy.cuda.runtime)
    return gpu


def driver_cuda_version() -> int | None:
    """The newest CUDA that the installed driver supports (13020 for 13.2), asked without CuPy; None: no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value else None


def _import_cupy() -> ModuleType:
    builds = _installed(_BUILDS)
    if len(builds) > 1:  # CuPy would only warn: their files overwrite each other
        raise DeviceError(
            f"{len(builds)} builds of CuPy are installed, of which one overwrites the other: {', '.join(builds)}",
            hint=f"`pip uninstall -y {' '.join(builds)}`, then {_install()}",
        )
    if find_spec("cupy") is None:
        raise MissingExtraError(
            "computing on a GPU needs CuPy, which is not installed", hint=f"{_install()}, {USE_CPU}"
        )
    try:
        import cupy
        import ml_dtypes  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"CuPy cannot be imported: {_cause(error)}", hint=f"{_install()}, {USE_CPU}") from error
    return cupy


def _check_driver(runtime: Any) -> None:
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise DeviceError(
            "CuPy is installed, but there is no NVIDIA driver",
            hint=f"install NVIDIA's driver (in a container: start it with --gpus all), {USE_CPU}",
        )
    if driver // 1000 < needed // 1000:
        raise _old_driver(driver, needed)


def _old_driver(driver: int, needed: int) -> DeviceError:
    hint = f"update NVIDIA's driver to {_DRIVER_OF.get(needed // 1000, 'a newer one')} or later, "
    if driver // 1000 == 12:
        removed = " ".join(_installed(_BUILDS)) or "cupy"
        hint += f"install the build for CUDA 12 (`pip uninstall -y {removed}`, then {_install(12)}), "
    return DeviceError(
        f"the NVIDIA driver is too old: it supports CUDA {_version(driver)}, and CuPy is built for {_version(needed)}",
        hint=hint + USE_CPU,
    )


def _first_device(runtime: Any) -> Gpu:
    try:
        if runtime.getDeviceCount() == 0:
            raise _no_device()
        found = runtime.getDeviceProperties(0)
    except runtime.CUDARuntimeError as error:
        if error.status == _INSUFFICIENT_DRIVER:
            raise _old_driver(runtime.driverGetVersion(), runtime.runtimeGetVersion()) from error
        if error.status == _NO_DEVICE:
            raise _no_device() from error
        raise DeviceError(f"CUDA cannot be started: {error}", hint=f"`nvidia-smi` may say more; {USE_CPU}") from error
    gpu = Gpu(found["name"].decode(), (found["major"], found["minor"]), found["totalGlobalMem"])
    if gpu.capability < LEAST_CAPABILITY:
        raise DeviceError(
            f"{gpu} is too old: bfloat16 needs compute capability 8.0, which GPUs have since Ampere (2020)",
            hint="choose another GPU with CUDA_VISIBLE_DEVICES, " + USE_CPU,
        )
    return gpu


def _no_device() -> DeviceError:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "`nvidia-smi` lists the GPUs of this machine" if shown is None else f"CUDA_VISIBLE_DEVICES is {shown!r}"
    return DeviceError("there is an NVIDIA driver, but it shows no GPU", hint=f"{hint}; {USE_CPU}")


def _check_libraries(runtime: Any) -> None:
    """CuPy finds NVRTC and cuBLAS when they are first needed; a run should not begin before they are there."""
    try:
        from cupy_backends.cuda.libs import cublas, nvrtc  # noqa: F401

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        major = runtime.runtimeGetVersion() // 1000
        raise MissingExtraError(
            f"CuPy is installed without the libraries of CUDA {major}: {_cause(error)}",
            hint=f"{_install(major)}, {USE_CPU}",
        ) from error


def _install(major: int | None = None) -> str:
    """The command that installs CuPy for a major version of CUDA; None: for the one that the driver supports."""
    if major is None:
        supported = driver_cuda_version()
        major = None if supported is None else min(max(supported // 1000, 12), 13)
    if major is None:
        return f"`pip install 'entrenar[cuda13]'` (or cuda12, for an NVIDIA driver older than {_DRIVER_OF[13]})"
    return f"`pip install 'entrenar[cuda{major}]'`"


def _installed(names: tuple[str, ...]) -> list[str]:
    from importlib import metadata  # takes as long to import as all the rest here

    return [name for name in names if any(True for _ in metadata.distributions(name=name))]


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _cause(error: Exception) -> str:
    """The line of a long message that names what is missing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")]
    return next((line for line in lines if "rror" in line or "ailure" in line), lines[0] if lines else repr(error))
