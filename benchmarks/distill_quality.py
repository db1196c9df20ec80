"""What a teacher is good for, on the shared model of 7 M parameters and tinyshakespeare.txt (the last 10 % held out).

Half depth: three of the six blocks, copied from the teacher, trained in full for the same steps on the cross-entropy
alone (the best of three learning rates) and with a teacher (one rate). Q4_0: the whole model, trained while it is
rounded, with the unrounded one as teacher. Two teachers: both fine-tunes of the model, on the two halves of the text.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import train_command
from benchmarks.perplexity import log_probabilities, mean_kl, our_logits, token_rows
from benchmarks.qat import SHARE, data_section, held_out_perplexity, quantized, write_texts
from benchmarks.real_data import ABSENT, shared_data

STEPS = 120
RATE = 1e-3
RATES_ALONE = (3e-4, 1e-3, 3e-3)
"""Without a teacher the best of these counts; with one there is no choice."""
KL_ROWS = 16
"""Rows of 512 tokens of the held-out text for the divergence from the model in float16."""


@dataclass(frozen=True)
class Case:
    """One way to train. `distill` is the section without its teachers; None: without any."""

    name: str
    distill: Mapping[str, Any] | None = None
    rates: Sequence[float] = (RATE,)
    sections: Mapping[str, Any] = field(default_factory=dict)


HALF = {"layers": 3, "init": "from_teacher"}
HALVES = (
    Case("cross-entropy alone", {"alpha": 0.0}, RATES_ALONE),
    Case("KD, alpha 0.5, T 2", {"alpha": 0.5, "temperature": 2.0}),
    Case("KD, alpha 0.9, T 1", {"alpha": 0.9, "temperature": 1.0}),
    Case("KD, alpha 0.5, T 2, hidden states", {"alpha": 0.5, "layers": "even", "hidden": {"weight": 0.1}}),
)


def run(steps: int = STEPS) -> list[str]:
    """Three tables; a line that says FAILED where a student with a teacher is no better than without."""
    data = shared_data()
    if data is None:
        return [f"distill_quality: {ABSENT}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-distill-") as name:
        scratch = Path(name)
        write_texts(data / "tinyshakespeare.txt", scratch)
        base = data / "models" / "base-7m-f16.gguf"
        lines = [f"Held-out loss (nats a token) after {steps} steps; {base.name} has {loss_of(base, scratch):.4f}"]
        return (
            lines
            + half_depth(base, scratch, steps)
            + q4_0(base, data, scratch, steps)
            + two_teachers(base, scratch, steps)
        )


def half_depth(base: Path, scratch: Path, steps: int) -> list[str]:
    """The student of three blocks, with and without its teacher."""
    lines, losses = ["  half depth (3 of 6 blocks)"], []
    for case in HALVES:
        found = {
            lr: loss_of(
                trained(case, lr, scratch, steps, {**(case.distill or {}), "teacher": str(base), "student": HALF}),
                scratch,
            )
            for lr in case.rates
        }
        losses.append(min(found.values()))
        lines.append(_line(case.name, found))
    verdict = "" if min(losses[1:]) < losses[0] else "  FAILED: the teacher does not help"
    return [
        *lines,
        f"    the best with a teacher: {losses[0] - min(losses[1:]):+.4f} lower than the cross-entropy alone{verdict}",
    ]


def q4_0(base: Path, data: Path, scratch: Path, steps: int) -> list[str]:
    """What rounding costs afterwards, while training, and while training with the unrounded model as teacher."""
    held_out = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    held_out = held_out[int(SHARE * len(held_out)) :]
    rows = token_rows(base, held_out, KL_ROWS)
    exact = log_probabilities(our_logits(base, rows))
    quantize = {"type": "q4_0", "pure": True}
    copy = scratch / "base.gguf"
    copy.write_bytes(base.read_bytes())
    after = quantized(copy, quantize)
    section = {"model": {"path": str(base)}, "quantize": {**quantize, "stage": "qat"}}
    cases = {
        "QAT": Case("QAT", None, (3e-5,), section),
        "QAT + KD, alpha 1, T 1": Case(
            "QAT + KD", {"alpha": 1.0, "temperature": 1.0, "teacher": str(base)}, (3e-5,), section
        ),
    }
    lines = ["  Q4_0, pure: loss, and KL from the float16 model"]
    files = {"float16": base, "PTQ": after}
    files |= {name: trained(case, case.rates[0], scratch, steps, case.distill) for name, case in cases.items()}
    found = {
        name: (loss_of(path, scratch), mean_kl(exact, log_probabilities(our_logits(path, rows))))
        for name, path in files.items()
    }
    lines += [f"    {name:34} {loss:8.4f} {kl:9.5f}" for name, (loss, kl) in found.items()]
    kept = found["QAT + KD, alpha 1, T 1"]
    worth = found["PTQ"][0] - found["float16"][0]
    share = (found["PTQ"][0] - kept[0]) / worth
    verdict = "" if share > 0 and kept[1] < found["PTQ"][1] else "  FAILED: nothing is recovered"
    return [
        *lines,
        f"    recovered of the loss by rounding: {share:.0%}, of the KL {1 - kept[1] / found['PTQ'][1]:.0%}{verdict}",
    ]


def two_teachers(base: Path, scratch: Path, steps: int) -> list[str]:
    """A half-depth student of two fine-tunes, and of the better one of them."""
    lora = {"rank": 16, "alpha": 32, "target_modules": "all"}
    teachers = []
    for half, path in enumerate(_halves(scratch)):
        section = {
            "model": {"path": str(base)},
            "lora": lora,
            "data": data_section(scratch, path.stem) | {"batch_size": 4},
        }
        teachers.append(trained(Case(f"teacher-{half}", None, (1e-3,), section), 1e-3, scratch, steps, None))
    lines = ["  two teachers, fine-tuned on one half of the text each; student of 3 blocks"]
    own = [loss_of(one, scratch) for one in teachers]
    better = own.index(min(own))
    lines.append(f"    the teachers themselves: {own[0]:.4f} and {own[1]:.4f}")
    sections: dict[str, dict[str, Any]] = {
        "the better teacher alone": {"teacher": str(teachers[better])},
        "both, mean": {"teachers": [str(one) for one in teachers]},
        "both, by confidence": {"teachers": [str(one) for one in teachers], "combine": "confidence"},
    }
    losses = {}
    for name, section in sections.items():
        case = Case(name)
        found = {
            lr: loss_of(
                trained(case, lr, scratch, steps, {"alpha": 0.9, "temperature": 1.0, "student": HALF, **section}),
                scratch,
            )
            for lr in case.rates
        }
        losses[name] = min(found.values())
        lines.append(_line(name, found))
    gain = losses["the better teacher alone"] - min(list(losses.values())[1:])
    said = "two teachers beat one" if gain > 0 else "TWO TEACHERS DO NOT BEAT ONE"
    return [*lines, f"    {said}: {gain:+.4f}"]


def _halves(scratch: Path) -> list[Path]:
    text = pq.read_table(scratch / "train.parquet")["text"][0].as_py()
    paths = []
    for number, part in enumerate((text[: len(text) // 2], text[len(text) // 2 :])):
        paths.append(scratch / f"half{number}.parquet")
        pq.write_table(pa.table({"text": [part]}), paths[-1])
    return paths


def trained(case: Case, lr: float, scratch: Path, steps: int, distill: Mapping[str, Any] | None) -> Path:
    """Train; the written model."""
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{case.name}-{lr:g}")
    config: dict[str, Any] = {
        "data": data_section(scratch, "train") | {"batch_size": 4},
        "optimizer": {"name": "adamw", "lr": lr, "schedule": "cosine", "warmup": 0.1},
        "training": {"max_steps": steps, "threads": 2, "seed": 1, "keep_last": 1, "output_dir": str(scratch / name)},
        **case.sections,
    }
    if "quantize" not in config:
        config["output"] = {"type": "f32"}
    if distill is not None:
        config["distill"] = dict(distill)
    watched = train_command(config, scratch, name=name)
    print(f"  [{name}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    return scratch / name / "model.gguf"


def loss_of(model: Path, scratch: Path) -> float:
    """Mean loss of a token of the held-out text."""
    return math.log(held_out_perplexity(model, scratch))


def _line(name: str, found: Mapping[float, float]) -> str:
    each = "  ".join(f"{loss:.4f} (lr {lr:g})" for lr, loss in found.items())
    return f"    {name:34} {each}"
