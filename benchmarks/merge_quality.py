"""Merges of real fine-tunes: LoRAs of one model on different texts, two at a time, become one.

The texts are plays, solutions of sums, and the source code of entrenar. Every merge is asked for the perplexity of both
its texts, on parts that none has seen, beside the fine-tunes alone and the plain average of their weights. All settings
are shown; the weights other than 1 were taken after a look at a quarter of the rows, for all methods alike. The base
has seen the plays before, of the sums the questions, and no code. Takes 20 minutes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import train_command
from benchmarks.learning_cases import blocks
from benchmarks.perplexity import log_probabilities, our_logits, perplexity, token_rows
from benchmarks.real_data import ABSENT, shared_data

Rows = npt.NDArray[np.int32]

STEPS = 150
ROWS = 40
"""Rows of 512 tokens of each held-out text."""

LEARNING_RATES = {"plays": 1e-3, "sums": 2e-3, "code": 2e-3}
PAIRS = (("code", "sums"), ("plays", "sums"))
AVERAGE = "average (linear)"
_SOURCES = Path(__file__).parents[1] / "entrenar_core"


@dataclass(frozen=True)
class Setting:
    """A merge of two fine-tunes; weights are 1 unless they are given."""

    name: str
    method: str
    options: tuple[str, ...] = ()


def _weighted(method: str, first: float, second: float, *options: str) -> Setting:
    """Changes times their weights, added up as they are."""
    weights = ("--weight", f"{first:g}", "--weight", f"{second:g}", "--no-normalize")
    density = f", density {options[1]}" if options else ""
    return Setting(f"{method}{density}, weights {first:g} and {second:g}", method, (*weights, *options))


SETTINGS = (
    Setting(AVERAGE, "linear"),
    Setting("slerp, t 0.5", "slerp", ("--t", "0.5")),
    _weighted("task_arithmetic", 1, 1),
    _weighted("task_arithmetic", 0.6, 0.6),
    _weighted("task_arithmetic", 0.6, 0.7),
    _weighted("dare_ties", 0.6, 0.6, "--density", "0.5"),
    *(Setting(f"ties, density {density}", "ties", ("--density", density)) for density in ("0.1", "0.2", "0.5", "0.8")),
    *(_weighted("ties", 0.6, 0.6, "--density", density) for density in ("0.2", "0.5", "0.8")),
    _weighted("ties", 0.6, 0.7, "--density", "0.8"),
)


def run(steps: int = STEPS) -> list[str]:
    """For each pair a line for each model with its two perplexities, and what beats the average on both texts."""
    data = shared_data()
    if data is None:
        return [f"merge_quality: {ABSENT}"]
    base = data / "models" / "base-7m-f16.gguf"
    lines = [f"merge_quality: LoRA r16 of {base.name}, {steps} steps on each text; held-out perplexities"]
    with tempfile.TemporaryDirectory(prefix="entrenar-quality-") as name:
        scratch = Path(name)
        rows = {text: token_rows(base, held_out, ROWS) for text, held_out in write_texts(data, scratch).items()}
        alone = {text: fine_tune(base, text, scratch, steps) for text in rows}
        for pair in PAIRS:
            pair_rows = {text: rows[text] for text in pair}
            models = [alone[text] for text in pair]
            each = {f"fine-tuned on {text}": measure(alone[text], pair_rows) for text in pair}
            found = {one.name: measure(merged(one, base, models, scratch), pair_rows) for one in SETTINGS}
            lines += [
                "  " + " " * 44 + "".join(f"{text:>10}" for text in pair),
                _line("base", measure(base, pair_rows)),
            ]
            lines += [*(_line(*entry) for entry in (each | found).items()), *verdict(found, list(each.values()))]
    return lines


def write_texts(data: Path, folder: Path) -> dict[str, str]:
    """``TEXT.parquet`` to train on; returns what is held out of each: a twentieth, of the code every tenth file."""
    plays = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    cut = len(plays) * 95 // 100
    files = [path.read_text(encoding="utf-8") for path in sorted(_SOURCES.rglob("*.py"))]
    held_out = files[::10]
    del files[::10]
    parts = {
        "plays": (plays[:cut], plays[cut:]),
        "sums": (_solutions(data / "gsm8k" / "train.parquet"), _solutions(data / "gsm8k" / "val.parquet")),
        "code": ("\n\n".join(files), "\n\n".join(held_out)),
    }
    for name, (seen, _) in parts.items():
        pq.write_table(pa.table({"text": list(blocks(seen))}), folder / f"{name}.parquet")
    return {name: rest for name, (_, rest) in parts.items()}


def _solutions(path: Path) -> str:
    return "\n\n".join(pq.read_table(path, columns=["answer"])["answer"].to_pylist())


def fine_tune(base: Path, text: str, scratch: Path, steps: int) -> Path:
    """The model that `entrenar train` writes, its adapter merged, in float32."""
    output = scratch / f"run-{text}"
    section = {"train": str(scratch / f"{text}.parquet"), "text": "text", "seq_len": 256, "batch_size": 8}
    config: dict[str, Any] = {
        "model": {"path": str(base)},
        "data": section | {"packing": True, "cache": False},
        "optimizer": {"name": "adamw", "lr": LEARNING_RATES[text], "schedule": "cosine", "warmup": 0.1},
        "lora": {"rank": 16, "alpha": 32, "target_modules": "all"},
        "training": {"max_steps": steps, "threads": 2, "seed": 1, "keep_last": 1, "output_dir": str(output)},
        "output": {"type": "f32"},
    }
    watched = train_command(config, scratch, name=f"train-{text}")
    print(f"  [{text}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    return output / "model.gguf"


def merged(setting: Setting, base: Path, models: Sequence[Path], scratch: Path) -> Path:
    """What `entrenar merge` writes, in float32."""
    output = scratch / "merged.gguf"
    # slerp takes its base for one of the two models
    over = [] if setting.method in ("linear", "slerp") else ["--base", str(base)]
    command = [sys.executable, "-m", "entrenar_cli", "merge", *map(str, models), *over]
    options = ["--method", setting.method, *setting.options, "--type", "f32", "--overwrite", "-o", str(output)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return output


def measure(model: Path, rows: Mapping[str, Rows]) -> dict[str, float]:
    """The perplexity of each text."""
    return {text: perplexity(log_probabilities(our_logits(model, tokens)), tokens) for text, tokens in rows.items()}


def verdict(found: Mapping[str, Mapping[str, float]], alone: Sequence[Mapping[str, float]]) -> list[str]:
    """What beats the plain average of the weights, and the mean perplexity of the fine-tunes, on both texts."""
    mean = {text: sum(one[text] for one in alone) / len(alone) for text in found[AVERAGE]}
    lines = []
    for title, other in (("average of the weights", found[AVERAGE]), ("mean of the fine-tunes", mean)):
        better = [name for name, one in found.items() if all(one[text] < other[text] for text in one)]
        some_ties = any(name.startswith("ties") for name in better)
        lines.append(f"    better than the {title} on both: {'; '.join(better) or 'nothing'}")
        lines.append(f"    TIES {'beats' if some_ties else 'DOES NOT BEAT'} the {title} on both")
    return lines


def _line(name: str, found: Mapping[str, float]) -> str:
    line = f"  {name:44}" + "".join(f"{value:10.3f}" for value in found.values())
    print(line, file=sys.stderr, flush=True)
    return line


if __name__ == "__main__":
    print("\n".join(run()))
