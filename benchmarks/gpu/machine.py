"""What a GPU machine is, or why there is none; asked in a process of its own, so that the caller holds no device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Child, ChildEnded, ChildTimedOut, Message, message_stream

PEERS = ("torch", "transformers", "peft", "bitsandbytes", "flash_attn")
_SECONDS = 60.0


def ask_machine(log: Path) -> Message:
    """The facts of this machine, or {"none": why there is no GPU}."""
    child = Child("benchmarks.gpu.machine", [], log)
    try:
        return child.receive(_SECONDS)
    except (ChildEnded, ChildTimedOut) as error:
        return {"none": str(error)}
    finally:
        child.stop()


def host_facts() -> Message:
    """Processor, Python, and what is installed."""
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: installed_version(name) for name in ("numpy", "numba", "cupy", "ml_dtypes", *PEERS)},
    }


def installed_version(name: str) -> str | None:
    """Of a distribution by one of the names that it has; None if it is not installed."""
    for candidate in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return None


_DISTRIBUTIONS = {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"), "flash_attn": ("flash-attn",)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_facts() -> Message:
    """Name, memory and versions of the GPU that CuPy takes.

    Raises:
        Exception: whatever CuPy raises where there is no GPU.
    """
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "memory_bytes": properties["totalGlobalMem"],
        "driver": _version(runtime.driverGetVersion()),
        "cuda_runtime": _version(runtime.runtimeGetVersion()),
        "cublas": cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle()),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cudnn": _cudnn_version(),
    }


def _version(number: int) -> str:
    """CUDA writes 13.1 as 13010."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _cudnn_version() -> str | None:
    try:
        import cudnn
    except ImportError:
        return None
    number: Any = cudnn.backend_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def main() -> None:
    send = message_stream()
    try:
        send({**gpu_facts(), **host_facts()})
    except Exception as error:
        send({"none": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})


if __name__ == "__main__":
    main()
