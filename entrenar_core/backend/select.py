"""Which backend a run computes on: decided once, when the run is planned."""

from __future__ import annotations

from typing import Literal

from entrenar_core.backend.base import Backend
from entrenar_core.errors import MissingExtraError

Device = Literal["auto", "cpu", "cuda"]


def select_backend(device: Device = "auto", threads: int | None = None) -> Backend:
    """The backend for a device; "auto" takes the CPU. `threads` is the CPU's budget, None for every core.

    Raises:
        MissingExtraError: "cuda" was asked for.
    """
    if device == "cuda":
        raise MissingExtraError("the CUDA backend is not part of this release", hint="use `device: cpu` or `auto`")
    from entrenar_core.backend.cpu import CpuBackend  # numba and the kernels are slow to import

    return CpuBackend(threads)
