"""QLoRA beside LoRA on an F16 base and full fine-tuning: tokens a second, and the memory of the whole command.

Speed: one process holds the same random weights of s134's shape once in full precision and once in each kind of blocks,
and takes a LoRA step on each in turn. Memory: `entrenar train` on files of tl1b's shape, the few-bit ones written by
`entrenar quantize`; watched are the proportional set (PSS: private memory and the mapped pages of the model file) and
the largest resident set. Takes half an hour, 20 GB of memory and 10 GB of disk.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.big_lora import Config, texts
from benchmarks.command import CommandFailed, Watched, read_metrics, train_command
from benchmarks.lora_step_ours import random_batch, spec_of
from benchmarks.random_gguf import write_random_gguf
from benchmarks.real_data import ABSENT, gsm8k_section, shared_data
from benchmarks.shapes import BY_NAME

KINDS = ("q4_0", "q8_0", "q4_k_m")
"""The mixes that bases are held in."""

KEEP_FREE = 2**30
"""A run that leaves less memory to the machine than this is ended."""

LORA = {"rank": 16, "alpha": 32}

Step = Callable[[], tuple[float, float]]
"""Seconds of the clock, and of all processors together."""


def run() -> list[str]:
    """Speed first, then memory."""
    return [*speed(), *memory()]


def speed(shape_name: str = "s134", rows: int = 2, length: int = 512, rounds: int = 7, threads: int = 2) -> list[str]:
    """Tokens a second of a step on each base, and the ratio to the step on the dense base, pair by pair."""
    from entrenar_core.backend.cpu import CpuBackend

    backend = CpuBackend(threads)
    steps = {kind: _stepper(shape_name, kind, backend, (rows, length)) for kind in ("f16", *KINDS)}
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
    for number in range(rounds + 1):
        for kind, step in steps.items():
            seconds = step()
            if number:
                taken[kind].append(seconds)
    backend.close()
    lines = [f"LoRA r16 on q,k,v,o; {shape_name}, B{rows} T{length}, {threads} threads, {rounds} rounds in turn"]
    for kind, times in taken.items():
        pairs = list(zip(taken["f16"], times, strict=True))
        clock, processor = ([dense[which] / mine[which] for dense, mine in pairs] for which in (0, 1))
        rate = rows * length / statistics.median(seconds for seconds, _ in times)
        lines.append(
            f"  base {kind:7} {rate:6.0f} tok/s  {statistics.median(clock):.2f}x LoRA on F16"
            f" (pairs {min(clock):.2f} to {max(clock):.2f}; by processor time {statistics.median(processor):.2f}x)"
        )
    return lines


def _stepper(shape_name: str, kind: str, backend: Any, batch_shape: tuple[int, int]) -> Step:
    """A LoRA step on a base of random weights, dense or in blocks; it returns what it took."""
    from entrenar_core.autograd.tape import Tape
    from entrenar_core.autograd.tensor import Tensor
    from entrenar_core.codecs.packed import PackedMatrix
    from entrenar_core.lora.inject import LoRASettings, inject_lora
    from entrenar_core.model.decoder import LanguageModel
    from entrenar_core.model.initialize import random_weight
    from entrenar_core.model.load import expected_shapes
    from entrenar_core.model.module import PassKey
    from entrenar_core.model.packed import PackedWeight
    from entrenar_core.optim.adam import AdamW
    from entrenar_core.optim.clip import clip
    from entrenar_core.quant.mixes import MixRequest, choose_types, quantizes

    spec = spec_of(BY_NAME[shape_name])
    shapes = expected_shapes(spec)
    types = choose_types({name: (shape, "F16") for name, shape in shapes.items()}, MixRequest(kind))
    weights: dict[str, Any] = {}
    for name, shape in shapes.items():
        values = random_weight(name, shape, spec.num_layers, 0)
        if kind != "f16" and quantizes(name, shape):
            weights[name] = PackedWeight(name, PackedMatrix.encode(values, types[name].type_name), backend)
        else:
            weights[name] = Tensor(backend.asarray(values), backend, name=name)
    model = LanguageModel(spec, weights, backend)
    adapters = inject_lora(model, LoRASettings(16, 16.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj")), 0)
    optimizer, batch = AdamW(adapters, weight_decay=0.01), random_batch(spec.vocab_size, *batch_shape, 0)

    def step() -> tuple[float, float]:
        started, busy = time.perf_counter(), time.process_time()
        with Tape() as tape:
            loss = model.loss(batch, 1.0 / batch.n_supervised, PassKey(0, 0, 0))
        tape.backward(loss)
        optimizer.step(1e-4, clip(adapters, 1.0))
        for tensor in adapters.values():
            tensor.zero_grad()
        return time.perf_counter() - started, time.process_time() - busy

    return step


def memory(shape_name: str = "tl1b", steps: int = 2, folder: str | None = None, with_full: bool = True) -> list[str]:
    """A row for each way of training; `folder` keeps the model files for another time."""
    data = shared_data()
    if data is None:
        return [f"qlora: {ABSENT}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-qlora-") as name:
        models, scratch = Path(folder or name), Path(name)
        models.mkdir(exist_ok=True)
        files = _files(models, shape_name, data)
        lines = [f"`entrenar train`, {shape_name}, gsm8k, packed rows B2 T512, activation checkpointing, {steps} steps"]
        full: Watched | None = None
        if with_full:
            line, full = _row("full fine-tuning", files["f16"], data, scratch, steps, {})
            lines.append(line)
        for kind in ("f16", *KINDS):
            title = "LoRA, F16 base" if kind == "f16" else f"QLoRA, {kind}"
            line, watched = _row(title, files[kind], data, scratch, steps, {"lora": LORA})
            share = ""
            if full is not None and watched is not None:
                share = f"; {watched.peak_proportional / full.peak_proportional:.3f} of full fine-tuning"
            lines.append(line + share)
    return lines


def _files(folder: Path, shape_name: str, data: Path) -> dict[str, Path]:
    """An F16 file of random weights, and the same in few bits."""
    files = {kind: folder / f"{shape_name}-{kind}.gguf" for kind in ("f16", *KINDS)}
    if not files["f16"].exists():
        write_random_gguf(files["f16"], BY_NAME[shape_name], texts(data / "gsm8k" / "train.parquet"))
    for kind in KINDS:
        if not files[kind].exists():
            arguments = ["quantize", str(files["f16"]), "-o", str(files[kind]), "--type", kind]
            subprocess.run([sys.executable, "-m", "entrenar_cli", *arguments], check=True, capture_output=True)
    return files


def _row(
    title: str, model: Path, data: Path, scratch: Path, steps: int, sections: Config
) -> tuple[str, Watched | None]:
    output = scratch / "run"
    config = {
        "model": {"path": str(model)},
        "data": gsm8k_section(data),
        "optimizer": {"name": "adamw", "lr": 1e-4},
        "training": {
            "max_steps": steps,
            "threads": 2,
            "activation_checkpointing": True,
            "output_dir": str(output),
        },
        **sections,
    }
    try:
        watched = train_command(config, scratch, name="run", keep_free=KEEP_FREE)
    except CommandFailed as error:
        return f"  {title:18} FAILED: {error}", None
    print(f"  [{title}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    found = read_metrics(output, "step")
    counted = found[1:] or found
    rate = float(np.median([one["tokens"] / one["seconds"] for one in counted]))
    subprocess.run(["rm", "-r", str(output)], check=True)
    gib = 2**30
    return (
        f"  {title:18} {rate:5.0f} tok/s; peak: private and mapped (PSS) {watched.peak_proportional / gib:.2f} GiB,"
        f" resident {watched.peak_resident / gib:.2f}, anonymous {watched.peak_anonymous / gib:.2f}"
    ), watched
