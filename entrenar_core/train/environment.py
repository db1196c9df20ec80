"""What the bits of a result depend on besides the configuration: versions, the machine, threads.

It is recorded in every checkpoint. Another environment gives the same results to rounding, but not bit by bit.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import entrenar_core

CPU_INFO = Path("/proc/cpuinfo")
_ARITHMETIC = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")
"""Beginnings of the CPU features that choose between arithmetic instructions."""


def describe_environment(
    *, backend: str, threads: int, device: Mapping[str, str] | None = None
) -> dict[str, str | int]:
    """Names and values, in plain JSON types. `threads` is the run's thread budget, `device` what a GPU adds."""
    model, features = _cpu(CPU_INFO)
    return {
        "entrenar": entrenar_core.__version__,
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "numba": metadata.version("numba"),
        "system": platform.system(),
        "backend": backend,
        "threads": threads,
        "cpu": model,
        "cpu_features": " ".join(features),
        **(device or {}),
    }


def _cpu(info: Path) -> tuple[str, list[str]]:
    """The model of the first CPU and those of its features that matter to arithmetic, sorted."""
    if not info.exists():
        return platform.processor() or platform.machine(), []
    found: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = (found.get("flags") or found.get("Features") or "").split()
    return found.get("model name", platform.machine()), sorted(f for f in flags if f.startswith(_ARITHMETIC))
