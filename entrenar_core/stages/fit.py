"""Whether a run fits into the memory that is free, and the cheapest change that would make it fit.

Free memory is what the system could give now without swapping, bounded by the limits of the control groups that the
process is in (containers).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from entrenar_core.stages.estimate import MemoryEstimate, MemoryRequest, estimate_memory

MEMORY_INFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60
"""Version 1 of control groups writes a number near 2**63 for "no limit"."""


@dataclass(frozen=True)
class Change:
    """One change of the config, as a person would write it, and the memory that the run would need with it."""

    keys: str
    needed: int


@dataclass(frozen=True)
class Verdict:
    """`needed` and `available` in bytes (None: unknown). `change` is None where the run fits or nothing would help."""

    needed: int
    available: int | None
    change: Change | None = None

    @property
    def fits(self) -> bool:
        """True also where nobody can say how much memory there is."""
        return self.available is None or self.needed <= self.available


def memory_verdict(
    request: MemoryRequest,
    estimate: MemoryEstimate,
    available: int | None,
    estimator: Callable[[MemoryRequest], MemoryEstimate] = estimate_memory,
) -> Verdict:
    """Compare an estimate with the free memory; if it is too large, look for a change that would fit.

    Changes are tried from the one that costs least: smaller batches with more accumulation train the same, activation
    checkpointing takes about a third more time, shorter rows lose context, and LoRA trains less.
    """
    verdict = Verdict(estimate.needed, available)
    if verdict.fits or available is None:
        return verdict
    for keys, changed in _changes(request):
        needed = estimator(changed).needed
        if needed <= available:
            return Verdict(estimate.needed, available, Change(keys, needed))
    return verdict


def _changes(request: MemoryRequest) -> Iterator[tuple[str, MemoryRequest]]:
    checkpointing = replace(request, checkpoint_activations=True)
    yield from _smaller_batches(request, "")
    if not request.checkpoint_activations:
        note = "training.activation_checkpointing: true"
        yield note, checkpointing
        yield from _smaller_batches(checkpointing, f"{note}, ")
    note = "data.batch_size: 1, training.activation_checkpointing: true"
    for width in _halves(max(width for _, width in request.batches), smallest=64):
        narrow = [(1, min(width, old)) for _, old in request.batches]
        yield f"{note}, data.seq_len: {width}", replace(checkpointing, batches=narrow)


def _smaller_batches(request: MemoryRequest, prefix: str) -> Iterator[tuple[str, MemoryRequest]]:
    """Half the rows, a quarter ..., with as many more batches to a step, so that the training stays the same."""
    rows = max(rows for rows, _ in request.batches)
    for fewer in _halves(rows, smallest=1):
        narrow = [(min(fewer, old), width) for old, width in request.batches]
        times = f"training.grad_accum × {-(-rows // fewer)}"
        yield f"{prefix}data.batch_size: {fewer} with {times}", replace(request, batches=narrow)


def _halves(size: int, smallest: int) -> Iterator[int]:
    while size // 2 >= smallest:
        size //= 2
        yield size


def available_memory_bytes() -> int | None:
    """Memory that a new process could use now, in bytes; None where the system does not say."""
    found = [free for free in (_system_memory(), *_cgroup_memory()) if free is not None]
    return max(0, min(found)) if found else None


def _system_memory() -> int | None:
    for line in _lines(MEMORY_INFO):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not set(names) <= os.sysconf_names.keys():
        return None
    pages, size = (os.sysconf(name) for name in names)
    return pages * size


def _cgroup_memory() -> Iterator[int | None]:
    """What each control group above this process has left."""
    for line in _lines(OWN_CGROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_in(CGROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_in(CGROUPS / "memory", path, *files)


def _left_in(root: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int | None]:
    """For the group at `path` and all that it lies in: the limit without what is in use and cannot be dropped."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None and most < _UNLIMITED:
            yield most - used + _statistic(folder / "memory.stat", reclaimable)


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _statistic(path: Path, name: str) -> int:
    found = [line.split()[1] for line in _lines(path) if line.startswith(f"{name} ")]
    return int(found[0]) if found else 0


def _lines(path: Path) -> list[str]:
    """The lines of a small file of the system; none where it does not exist."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
