"""Which backend a run or stage computes on: decided once, when it is planned, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cuda_probe import USE_CPU, driver_cuda_version, find_gpu
from entrenar_core.backend.gpu_worth import Work, worth_a_gpu
from entrenar_core.errors import DeviceError, MissingExtraError

Device = Literal["auto", "cpu", "cuda"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class DeviceWish:
    """What a person asked for.

    Attributes:
        device: "auto" takes a GPU where there is one and the work is worth it.
        threads: of the CPU; None: one for each core.
        compute_dtype: of activations; "auto" is bfloat16 on a GPU and float32 on the CPU.
        deterministic: equal runs have to give equal bits on a GPU too; on the CPU they always do.
    """

    device: Device = "auto"
    threads: int | None = None
    compute_dtype: ComputeDtype = "auto"
    deterministic: bool = False


@dataclass(frozen=True)
class DeviceChoice:
    """What computes, and why: one line, or nothing where nothing had to be weighed (no GPU, or none asked for)."""

    device: Literal["cpu", "cuda"]
    compute_dtype: Literal["float32", "bfloat16"]
    reason: str = ""


def choose_device(wish: DeviceWish, work: Work | None = None) -> DeviceChoice:
    """Where to compute; `work` is weighed by the device "auto", and unknown work is worth a GPU.

    A GPU is not looked for where its absence is clear, for that takes a second.

    Raises:
        MissingExtraError, DeviceError: a GPU is needed and cannot be used; see `find_gpu`.
    """
    if wish.device == "cpu":
        if wish.compute_dtype == "bfloat16":
            raise DeviceError(
                "the CPU computes in float32, not in bfloat16", hint="leave training.compute_dtype out, or use a GPU"
            )
        return DeviceChoice("cpu", "float32")
    if wish.device == "cuda" or wish.compute_dtype == "bfloat16":
        return _on_gpu(wish, f"computing on {find_gpu()}")
    against = _why_not_a_gpu(work)
    if against is not None:
        return _on_cpu(against)
    try:
        gpu = find_gpu()
    except (MissingExtraError, DeviceError) as error:
        hint = (error.hint or "").removesuffix(USE_CPU).rstrip(" ,;")
        return _on_cpu(f"{error.message}; {hint}")
    if work is None:
        return _on_gpu(wish, f"computing on {gpu}")
    if work.device_bytes > gpu.n_bytes:
        return _on_cpu(f"the weights alone would take {work.device_bytes / 2**30:.1f} GiB of {gpu}")
    return _on_gpu(wish, f"computing on {gpu}: {worth_a_gpu(work).reason}")


def make_backend(choice: DeviceChoice, wish: DeviceWish) -> Backend:
    """The backend of a choice.

    Raises:
        DeviceError: the GPU cannot be started: it is in use, or broken.
    """
    if choice.device == "cpu":
        from entrenar_core.backend.cpu import CpuBackend  # numba and the kernels are slow to import

        return CpuBackend(wish.threads)
    from entrenar_core.backend.cuda import CudaBackend
    from entrenar_core.backend.cuda_cudnn import open_cudnn
    from entrenar_core.backend.cuda_cupy import CupyRuntime

    try:
        runtime = CupyRuntime()
    except RuntimeError as error:  # of CUDA or cuBLAS, in words of theirs
        raise DeviceError(
            f"the GPU cannot be started: {error}",
            hint="`nvidia-smi` shows whether another process holds it; or choose the device cpu",
        ) from error
    return CudaBackend(
        runtime, choice.compute_dtype, open_cudnn(runtime.capability, runtime.stream()), wish.deterministic
    )


def _on_cpu(reason: str) -> DeviceChoice:
    return DeviceChoice("cpu", "float32", f"computing on the CPU: {reason}" if reason else "")


def _on_gpu(wish: DeviceWish, reason: str) -> DeviceChoice:
    dtype: Literal["float32", "bfloat16"] = "float32" if wish.compute_dtype == "float32" else "bfloat16"
    return DeviceChoice("cuda", dtype, reason)


def _why_not_a_gpu(work: Work | None) -> str | None:
    """Why a GPU need not be looked for; empty where nobody would expect one, None where one may do."""
    if driver_cuda_version() is None:
        return ""
    worth = None if work is None else worth_a_gpu(work)
    return worth.reason if worth is not None and not worth.is_worth else None
