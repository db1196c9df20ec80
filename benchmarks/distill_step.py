"""What distillation costs in a step: the fused loss against the products that it cannot spare, and against torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.interleave import Worker, run_interleaved


@dataclass(frozen=True)
class LossShape:
    """Supervised rows, vocabulary and hidden size."""

    rows: int
    vocab: int
    width: int


SHAPES = (LossShape(4096, 4096, 256), LossShape(1024, 32_000, 2048), LossShape(1024, 151_936, 1024))


def run(rounds: int = 7, threads: int = 2, shapes: Sequence[LossShape] = SHAPES) -> list[str]:
    """For each shape: seconds and memory of each way to the loss and its gradient, and the ratios."""
    lines = [
        f"distillation loss, {threads} threads, fp32, T = 2, α = 0.5, frozen output matrices, forward and backward,"
        f" median of {rounds} rounds in turn; memory is what a step takes beyond its operands"
    ]
    for shape in shapes:
        lines += _compare(shape, rounds, threads)
    return lines


def _compare(shape: LossShape, rounds: int, threads: int) -> list[str]:
    size = ["--rows", str(shape.rows), "--vocab", str(shape.vocab), "--width", str(shape.width)]
    ways = ("plain", "fused", "alone", "known", "torch")
    workers = {way: Worker(way, "benchmarks.distill_worker", [way, *size], threads) for way in ways}
    try:
        run_interleaved(list(workers.values()), rounds=rounds, warmup=1)
    finally:
        for worker in workers.values():
            worker.stop()
    names = {
        "plain": "cross-entropy, and teacher's logits",
        "fused": "distillation",
        "alone": "cross-entropy",
        "known": "distillation, 64 tokens known",
        "torch": "torch, unfused distillation",
    }
    lines = [f"  {shape.rows} rows, V = {shape.vocab}, D = {shape.width}"]
    for way, worker in workers.items():
        memory = max(result["bytes"] for result in worker.results) / 2**20
        lines.append(f"    {names[way]:36} {worker.median_seconds() * 1e3:9.1f} ms {memory:8.0f} MiB")
    overhead = _ratio(workers["fused"], workers["plain"])
    lines.append(f"    distillation costs {overhead:.3f} of cross-entropy and teacher's logits")
    lines.append(f"    known tokens cost {_ratio(workers['known'], workers['alone']):.3f} of cross-entropy")
    lines.append(f"    torch takes {_ratio(workers['torch'], workers['fused']):.2f} times as long")
    losses = [workers[way].results[0]["loss"] for way in ("fused", "torch")]
    if abs(losses[0] / losses[1] - 1) > 1e-5:
        lines.append(f"    FAILED: the losses differ: {losses[0]} and torch's {losses[1]}")
    return lines


def _ratio(one: Worker, other: Worker) -> float:
    """Median of the ratios of rounds, which ran side by side."""
    pairs = zip(one.results, other.results, strict=True)
    return statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
