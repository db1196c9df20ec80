"""Quantization-aware training against quantization afterwards, at Q4_0 on the shared model of 7 M parameters.

All runs train on the first 90 % of tinyshakespeare.txt for the same steps, from the same weights, with the same seed,
batches and learning rate; the held-out text is the rest. The perplexity is that of the written file. Pure: all matrices
in Q4_0; else the mix of llama.cpp, which has the embedding (here the output matrix too) in Q6_K.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import train_command, watch
from benchmarks.real_data import ABSENT, shared_data
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.events import SilentReporter
from entrenar_core.model.load import load_model
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import load_datasets, open_data
from entrenar_core.train.evaluate import mean_loss

SHARE = 0.9
"""Of the text; it is trained on."""

STEPS, WARMUP = 100, 0
MIXES: Mapping[str, Mapping[str, Any]] = {
    "q4_0, pure": {"type": "q4_0", "pure": True},
    "q4_0": {"type": "q4_0"},
}


@dataclass(frozen=True)
class Method:
    """One way to train. lr: for all runs of it; in full, the better of 1e-4 and 3e-5 without quantization."""

    name: str
    lr: float
    lora: Mapping[str, Any] | None = None


METHODS = (
    Method("full", 3e-5),
    Method("LoRA", 1e-3, {"rank": 16, "alpha": 32, "target_modules": "all"}),
)


def run() -> list[str]:
    """A row for each method and mix: held-out perplexities, and what of the loss by rounding is left."""
    data = shared_data()
    if data is None:
        return [f"qat: {ABSENT}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-qat-") as name:
        scratch = Path(name)
        write_texts(data / "tinyshakespeare.txt", scratch)
        base = data / "models" / "base-7m-f16.gguf"
        start = held_out_perplexity(base, scratch)
        lines = [
            f"Held-out perplexity of the written files after {STEPS} more steps; {base.name} has {start:.3f}",
            f"  {'trained':7} {'types':11} {'float32':>9} {'PTQ':>9} {'QAT':>9}  rounding costs PTQ, QAT",
        ]
        for method in METHODS:
            float_file = trained(method, None, base, scratch)
            plain = held_out_perplexity(float_file, scratch)
            for mix, quantize in MIXES.items():
                after = held_out_perplexity(quantized(float_file, quantize), scratch)
                aware_file = trained(method, {**quantize, "stage": "qat", "qat": {"warmup": WARMUP}}, base, scratch)
                aware = held_out_perplexity(aware_file, scratch)
                verdict = "" if aware < after else "  QAT IS NOT BETTER"
                costs = f"{100 * (after / plain - 1):+.2f} %, {100 * (aware / plain - 1):+.2f} %"
                lines.append(f"  {method.name:7} {mix:11} {plain:9.3f} {after:9.3f} {aware:9.3f}  {costs}{verdict}")
    return lines


def write_texts(source: Path, folder: Path) -> None:
    """``train.parquet`` and ``val.parquet``: the two parts of the text, a document each."""
    text = source.read_text(encoding="utf-8")
    cut = int(SHARE * len(text))
    for name, part in (("train", text[:cut]), ("val", text[cut:])):
        pq.write_table(pa.table({"text": [part]}), folder / f"{name}.parquet")


def quantized(model: Path, quantize: Mapping[str, Any]) -> Path:
    """The file in few bits, as `entrenar quantize` makes it."""
    path = model.with_name("quantized.gguf")
    entrenar = str(Path(sys.executable).with_name("entrenar"))
    pure = ["--pure"] if quantize.get("pure") else []
    command = [entrenar, "quantize", str(model), "-o", str(path), "--type", str(quantize["type"]), "--overwrite", *pure]
    watch(command, path.with_suffix(".log"))
    return path


def trained(method: Method, quantize: Mapping[str, Any] | None, base: Path, scratch: Path) -> Path:
    """Train; the written model."""
    name = f"{method.name}-{'float32' if quantize is None else '-'.join(map(str, quantize.values()))}"
    name = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in name)
    config: dict[str, Any] = {
        "model": {"path": str(base)},
        "data": data_section(scratch, "train") | {"batch_size": 4},
        "optimizer": {"name": "adamw", "lr": method.lr, "schedule": "cosine", "warmup": 0.1},
        "training": {"max_steps": STEPS, "threads": 2, "seed": 1, "keep_last": 1, "output_dir": str(scratch / name)},
    }
    if method.lora is not None:
        config["lora"] = dict(method.lora)
    config |= {"output": {"type": "f32"}} if quantize is None else {"quantize": dict(quantize)}
    watched = train_command(config, scratch, name=name)
    print(f"  [{name}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    return scratch / name / "model.gguf"


def data_section(scratch: Path, part: str) -> dict[str, Any]:
    """The `data` section for one part of the text, in windows of 256 tokens."""
    return {"train": str(scratch / f"{part}.parquet"), "text": "text", "seq_len": 256, "packing": True, "cache": False}


def held_out_perplexity(model: Path, scratch: Path) -> float:
    """e to the mean loss of a token of the held-out text, as a written file has it."""
    path = scratch / "evaluate.yaml"
    section = data_section(scratch, "train") | {"val": str(scratch / "val.parquet"), "batch_size": 8}
    path.write_text(json.dumps({"model": {"path": str(model)}, "data": section}), encoding="utf-8")
    config = load_config(path)
    base, backend = open_base(config, SilentReporter()), CpuBackend(2)
    try:
        data = load_datasets(config, base, open_data(config, base, SilentReporter()), SilentReporter())
        assert base.file is not None
        assert data.val_loader is not None
        found = mean_loss(load_model(base.file, backend), data.val_loader)
        assert found is not None
        return math.exp(found.loss)
    finally:
        backend.close()
        base.close()
