"""LoRA r16 on q, k, v, o: tokens a second of one training step, ours against torch + transformers + peft."""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.interleave import Worker, run_interleaved
from benchmarks.shapes import BY_NAME


def gemm_peak(threads: int) -> float:
    """FLOP/s of this machine's own fp32 matrix product, 2048 cubed, best of several."""
    from entrenar_core.backend.cpu import CpuBackend

    backend = CpuBackend(threads)
    a, b = np.ones((2048, 2048), np.float32), np.ones((2048, 2048), np.float32)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        backend.gemm(a, b)
        seconds.append(time.perf_counter() - started)
    backend.close()
    return 2.0 * 2048**3 / min(seconds)


def run(shape_name: str = "s134", rows: int = 2, length: int = 512, rounds: int = 7, threads: int = 2) -> list[str]:
    """One table: a row for each contestant, and the ratio pair by pair."""
    shape = BY_NAME[shape_name]
    common = ["--shape", shape_name, "--rows", str(rows), "--length", str(length)]
    ours = Worker("entrenar fp32", "benchmarks.lora_step_ours", common, threads)
    peer = Worker("torch + peft fp32", "benchmarks.lora_step_torch", common, threads)
    try:
        run_interleaved([ours, peer], rounds=rounds, warmup=2)
        memory = {worker.name: worker.private_bytes() for worker in (ours, peer)}
    finally:
        for worker in (ours, peer):
            worker.stop()
    peak = gemm_peak(threads)
    tokens = rows * length
    flops = tokens * shape.lora_flops_per_token(length)
    lines = [f"LoRA step, {shape_name}, B{rows} T{length}, {threads} threads, {rounds} rounds in turn, fp32"]
    for worker in (ours, peer):
        seconds = worker.median_seconds()
        share = flops / seconds / peak
        lines.append(
            f"  {worker.name:18} {tokens / seconds:7.0f} tok/s  {share:5.0%} of the GEMM peak"
            f" ({peak / 1e9:.0f} GFLOP/s)  {memory[worker.name] / 1e9:.2f} GB"
        )
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours.results, peer.results, strict=True)]
    lines.append(f"  ratio {statistics.median(ratios):.2f}x (pairs {min(ratios):.2f} to {max(ratios):.2f})")
    return lines
