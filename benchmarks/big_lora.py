"""Whether TinyLlama-1.1B's shape can be fine-tuned on a laptop: `entrenar train` on random weights of that shape.

A LoRA for a few steps, then full fine-tuning with activation checkpointing. Reports speed and peak memory of the whole
command: opening, steps, checkpoint, and writing the model. Takes several minutes and about 20 GB of disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.command import CommandFailed, Watched, read_metrics, train_command
from benchmarks.random_gguf import write_random_gguf
from benchmarks.real_data import ABSENT, gsm8k_section, shared_data
from benchmarks.shapes import BY_NAME

LIMIT = 24 * 2**30
"""The memory that the whole command has to do with."""

_KEEP_FREE = 3 * 2**29
"""A run that leaves less memory to the machine than this is ended before the system ends something else."""

Config = dict[str, Any]


def run(shape_name: str = "tl1b", lora_steps: int = 3, full_steps: int = 2) -> list[str]:
    """Two rows: LoRA and full fine-tuning. Zero steps leave a row out."""
    data = shared_data()
    if data is None:
        return [f"{shape_name}_lora: {ABSENT}"]
    lines = [f"`entrenar train`, random weights of {shape_name}'s shape, F16 GGUF, gsm8k, packed rows B2 T512, fp32"]
    with tempfile.TemporaryDirectory(prefix="entrenar-big-") as name:
        scratch = Path(name)
        model = scratch / "base.gguf"
        started = time.perf_counter()
        size = write_random_gguf(model, BY_NAME[shape_name], texts(data / "gsm8k" / "train.parquet"))
        lines.append(f"  base model: {size / 2**30:.2f} GiB, written in {time.perf_counter() - started:.0f} s")
        lora = {"lora": {"rank": 16, "alpha": 32}}
        if lora_steps:
            lines.append(
                _row("LoRA r16 on q,k,v,o", scratch, _config(model, data, scratch / "lora", lora_steps) | lora)
            )
        if full_steps:
            config = _config(model, data, scratch / "full", full_steps)
            config["training"]["activation_checkpointing"] = True
            lines.append(_row("full, checkpointing", scratch, config))
    return lines


def _config(model: Path, data: Path, output: Path, steps: int) -> Config:
    return {
        "model": {"path": str(model)},
        "data": gsm8k_section(data),
        "optimizer": {"name": "adamw", "lr": 1e-4},
        "training": {"max_steps": steps, "threads": 2, "output_dir": str(output)},
    }


def _row(title: str, scratch: Path, config: Config) -> str:
    """Run one configuration and describe it."""
    output = Path(config["training"]["output_dir"])
    try:
        watched = train_command(config, scratch, name=output.name, keep_free=_KEEP_FREE)
    except CommandFailed as error:
        done = len(read_metrics(output, "step")) if (output / "metrics.jsonl").exists() else 0
        return f"  {title:20} FAILED after {done} steps: {error}"
    print(f"  [{title}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    return _describe(title, watched, read_metrics(output, "step"))


def _describe(title: str, watched: Watched, steps: list[dict[str, Any]]) -> str:
    """Speed of the steps after the first, which pays for compiling and first touches; memory of the whole command."""
    counted = steps[1:] or steps
    seconds = statistics.median(step["seconds"] for step in counted)
    rate = statistics.median(step["tokens"] / step["seconds"] for step in counted)
    losses = ", ".join(f"{step['loss']:.3f}" for step in steps)
    in_steps = steps[-1]["peak_memory_bytes"]
    verdict = "within" if watched.peak_resident <= LIMIT else "ABOVE"
    return (
        f"  {title:20} {len(steps)} steps, {seconds:.1f} s a step, {rate:.0f} tok/s, losses {losses}; peak resident"
        f" {watched.peak_resident / 2**30:.2f} GiB ({verdict} {LIMIT / 2**30:.0f}), of it {in_steps / 2**30:.2f} in"
        f" the steps, anonymous {watched.peak_anonymous / 2**30:.2f}; whole command {watched.seconds:.0f} s"
    )


def texts(path: Path) -> Iterator[str]:
    """Every text of a parquet file."""
    import pyarrow.parquet as pq

    for column in pq.read_table(path).columns:
        yield from column.to_pylist()
