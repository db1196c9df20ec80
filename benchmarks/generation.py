"""Generation beside llama.cpp: tokens a second of greedy batches, each engine from the same file, step by step in turn.

llama.cpp multiplies integers where weights are in blocks; ours decodes tiles of them and computes in float32.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.big_lora import texts
from benchmarks.generation_worker import BATCHES, PROMPT, STEPS
from benchmarks.interleave import Worker, run_interleaved
from benchmarks.random_gguf import write_random_gguf
from benchmarks.real_data import ABSENT, shared_data
from benchmarks.shapes import BY_NAME

MIXES = ("f16", "q8_0", "q4_0", "q4_k_m")


def run(shape_name: str = "s134", rounds: int = 5, threads: int = 2) -> list[str]:
    """A line for each type and batch size: tokens a second of both, and the ratio pair by pair."""
    data = shared_data()
    if data is None:
        return [f"generation: {ABSENT}"]
    lines = [
        f"greedy generation, {shape_name} with random weights, {STEPS - 1} tokens behind {PROMPT}, {threads} threads,"
        f" {rounds} rounds in turn"
    ]
    with tempfile.TemporaryDirectory(prefix="entrenar-generation-") as name:
        base = Path(name) / "f16.gguf"
        write_random_gguf(base, BY_NAME[shape_name], texts(data / "gsm8k" / "train.parquet"))
        for mix in MIXES:
            lines += _lines(mix, base if mix == "f16" else _quantized(base, mix), rounds, threads)
    return lines


def _quantized(source: Path, mix: str) -> Path:
    target = source.with_name(f"{mix}.gguf")
    command = [sys.executable, "-m", "entrenar_cli", "quantize", str(source), "-o", str(target), "--type", mix]
    subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL)
    return target


def _lines(mix: str, model: Path, rounds: int, threads: int) -> Iterator[str]:
    engines = [
        Worker(engine, "benchmarks.generation_worker", [engine, str(model)], threads)
        for engine in ("ours", "llama_cpp")
    ]
    try:
        run_interleaved(engines, rounds=rounds, warmup=1)
    finally:
        for worker in engines:
            worker.stop()
    alone: float | None = None
    for count in BATCHES:
        mine, theirs = ([result["batches"][str(count)] for result in worker.results] for worker in engines)
        speed, peer = (count * (STEPS - 1) / statistics.median(seconds) for seconds in (mine, theirs))
        alone = speed if alone is None else alone
        ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
        line = f"  {mix:7} batch {count:2}: {speed:7.1f} tok/s ({speed / alone:4.1f} x batch 1)"
        yield f"{line}   llama.cpp {peer:7.1f} tok/s   {ratio:.2f}x"
        print(line, file=sys.stderr, flush=True)
