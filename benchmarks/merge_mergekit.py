"""Equality with mergekit: every method, over pico models, from the same files of mergekit to a safetensors folder.

What is not random has to agree within 1e-5 in each value, in float32. For what drops entries at random, the share that
is kept has to agree in each matrix as far as chance allows, for the smaller and the larger changes of each row too, and
so does the L1 norm of the whole change. `python -m benchmarks.merge_mergekit [PART OF A NAME ...]` ends with status 1
if a case fails.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from benchmarks.merge_cases import Case, cases
from benchmarks.mergekit_environment import VERSION, run_in_environment

Tensors = Mapping[str, npt.NDArray[np.float32]]

TOLERANCE = 1e-5
DEVIATIONS = 5.0
"""How many standard deviations two shares of kept entries may be apart."""

NORM_TOLERANCE = 0.02
FAILED = "FAILED"


class Disagreement(Exception):
    """The two merges are not of the same tensors, or one was refused."""


def run(parts: Sequence[str] = ()) -> list[str]:
    """A line for each case whose name has one of `parts` (default: all), and how many agree."""
    chosen = [case for case in cases() if not parts or any(one in case.name for one in parts)]
    lines = [f"merge_mergekit: {len(chosen)} merges beside mergekit {VERSION}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-mergekit-") as name:
        folder = Path(name)
        run_in_environment("benchmarks.mergekit_pico", [name])
        for number, case in enumerate(chosen):
            (folder / f"{number:03}.yaml").write_text(json.dumps(case.config), encoding="utf-8")
        run_in_environment("benchmarks.mergekit_worker", [name])
        for number, case in enumerate(chosen):
            lines.append(_line(case, folder, f"{number:03}"))
            print(lines[-1], file=sys.stderr, flush=True)
    failed = sum(f" {FAILED}" in line for line in lines)
    return [*lines, f"  {len(chosen) - failed} of {len(chosen)} agree" + (f", {failed} {FAILED}" if failed else "")]


def _line(case: Case, folder: Path, number: str) -> str:
    note = f" ({case.note})" if case.note else ""
    try:
        ours, theirs = _our_merge(folder, number), _their_merge(folder, number)
        agrees, found = statistics(folder, ours, theirs) if case.is_random else difference(case, ours, theirs)
    except Disagreement as error:
        agrees, found = False, str(error)
    return f"  {case.name:58} {'agrees' if agrees else FAILED}: {found}{note}"


def _our_merge(folder: Path, number: str) -> Tensors:
    command = [sys.executable, "-m", "entrenar_cli", "merge", f"{number}.yaml", "-o", f"ours/{number}"]
    (folder / "ours").mkdir(exist_ok=True)
    options = ["--format", "safetensors"]
    process = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        raise Disagreement(f"entrenar refuses: {process.stderr.strip()[-1000:]}")
    return load_file(folder / "ours" / number / "model.safetensors")


def _their_merge(folder: Path, number: str) -> Tensors:
    error = folder / "theirs" / f"{number}.error"
    if error.is_file():
        raise Disagreement(f"mergekit refuses: {error.read_text(encoding='utf-8')[:1000]}")
    return load_file(folder / "theirs" / number / "model.safetensors")


def difference(case: Case, ours: Tensors, theirs: Tensors) -> tuple[bool, str]:
    """Whether all values are near enough, and the largest difference with the tensor that has it."""
    _check_tensors(ours, theirs)
    compared = [name for name in theirs if not any(one in name for one in case.left_out)]
    largest, where, swapped = 0.0, "", 0
    for name in compared:
        differences = np.abs(ours[name].astype(np.float64) - theirs[name])
        far = ~(differences <= TOLERANCE)  # what is no number is far too
        if 0 < np.count_nonzero(far) <= case.swaps:
            swapped += int(np.count_nonzero(far))
            differences[far] = 0
        if not differences.max() <= largest:
            largest, where = float(differences.max()), f" in {name}"
    left_out = f", {len(theirs) - len(compared)} tensors left out" if case.left_out else ""
    chosen = f", {swapped} entries chosen otherwise" if swapped else ""
    return largest <= TOLERANCE, f"max |difference| {largest:.1e}{where}{left_out}{chosen}"


def _check_tensors(ours: Tensors, theirs: Tensors) -> None:
    wrong = sorted(set(ours) ^ set(theirs)) or [name for name in theirs if ours[name].shape != theirs[name].shape]
    if wrong:
        raise Disagreement(f"other tensors, or other shapes: {', '.join(wrong[:5])}")


def statistics(folder: Path, ours: Tensors, theirs: Tensors) -> tuple[bool, str]:
    """Whether kept shares and L1 norms of the changes are those of the same distribution."""
    _check_tensors(ours, theirs)
    base = load_file(folder / "base" / "model.safetensors")
    tuned = load_file(folder / "dense" / "model.safetensors")
    matrices = [name for name in base if base[name].ndim == 2]
    deviations, shares, norms = 0.0, np.zeros(2), np.zeros(2)
    for name in matrices:
        changes = [values[name].astype(np.float64) - base[name] for values in (ours, theirs)]
        larger = _larger_half(np.abs(tuned[name].astype(np.float64) - base[name]))
        for half in (larger, ~larger):
            kept = [float(np.count_nonzero(change[half])) / np.count_nonzero(half) for change in changes]
            deviations = max(deviations, _deviations(kept[0], kept[1], int(np.count_nonzero(half))))
        shares += [np.count_nonzero(change) for change in changes]
        norms += [float(np.abs(change).sum()) for change in changes]
    shares /= sum(base[name].size for name in matrices)
    ratio = norms[0] / norms[1]
    agrees = deviations <= DEVIATIONS and abs(ratio - 1) <= NORM_TOLERANCE
    return agrees, (
        f"kept {shares[0]:.4f}, mergekit {shares[1]:.4f}; {deviations:.1f} standard deviations apart at most;"
        f" L1 norms {ratio:.4f}"
    )


def _larger_half(magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The entries that are above the middle of their row."""
    larger: npt.NDArray[np.bool_] = magnitudes > np.median(magnitudes, axis=1, keepdims=True)
    return larger


def _deviations(one: float, other: float, count: int) -> float:
    """How far two shares of `count` independent draws are apart, in standard deviations of their difference."""
    mean = (one + other) / 2
    spread = math.sqrt(2 * mean * (1 - mean) / count)
    return abs(one - other) / spread if spread else 0.0


if __name__ == "__main__":
    print("\n".join(found := run(sys.argv[1:])))
    sys.exit(any(FAILED in line for line in found))
