"""What a GPU machine is, or why there is none; asked in a process of its own, so that the caller holds no device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.gpu.child import Child, ChildEnded, ChildTimedOut, Message, message_stream
from entrenar_core.errors import EntrenarError

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
    """Name, memory and versions of the GPU that the CUDA backend takes.

    Raises:
        EntrenarError: there is none, or something that it needs is missing.
    """
    from entrenar_core.backend.cuda_probe import find_gpu

    find_gpu()
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

        number: int = cudnn.backend_version()
    except (ImportError, RuntimeError):  # the front end without cuDNN itself is a RuntimeError
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def main() -> None:
    send = message_stream()
    try:
        send({**gpu_facts(), **host_facts()})
    except EntrenarError as error:
        send({"none": f"{error.message}; {error.hint}" if error.hint else error.message})


if __name__ == "__main__":
    main()
