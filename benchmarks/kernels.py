"""Single kernels against torch's, and backward against forward."""

from __future__ import annotations

import statistics

from benchmarks.interleave import Worker, run_interleaved

BACKWARD_LIMITS = {"softmax": 1.0, "matmul 512": 2.1, "RMSNorm": None}
"""What backward may cost at most, in units of its forward; None: no goal."""


def run(rounds: int = 5, threads: int = 2) -> list[str]:
    """A row for each kernel: ours, torch's, the ratio; then backward over forward."""
    ours = Worker("entrenar", "benchmarks.kernel_worker", ["ours"], threads)
    peer = Worker("torch", "benchmarks.kernel_worker", ["torch"], threads)
    try:
        run_interleaved([ours, peer], rounds=rounds, warmup=1)
    finally:
        for worker in (ours, peer):
            worker.stop()
    lines = [f"kernels, {threads} threads, fp32, best of 20 calls, median of {rounds} rounds in turn"]
    medians: dict[str, float] = {}
    for name in ours.results[0]["cases"]:
        mine = [result["cases"][name] for result in ours.results]
        theirs = [result["cases"][name] for result in peer.results]
        ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        medians[name] = statistics.median(mine)
        peer_ms = statistics.median(theirs) * 1e3
        lines.append(f"  {name:22} {medians[name] * 1e3:8.3f} ms   torch {peer_ms:8.3f} ms   {ratio:.2f}x")
    for name, limit in BACKWARD_LIMITS.items():
        ratio = medians[f"{name} backward"] / medians[f"{name} forward"]
        goal = "" if limit is None else f" (goal: at most {limit})"
        lines.append(f"  {name} backward costs {ratio:.2f} forwards{goal}")
    return lines
