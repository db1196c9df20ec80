"""The three runs on real data that are held against torch: LoRA, full fine-tuning, and training from nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]

_BLOCK_CHARACTERS = 1500
_VAL_SHARE = 0.05


@dataclass(frozen=True)
class Case:
    """A run: its name, and its configuration for a data folder, a scratch folder and a number of steps."""

    name: str
    steps: int
    configure: Callable[[Path, Path, int], Config]


def _gsm8k(data: Path) -> Config:
    folder = data / "gsm8k"
    return {
        "train": str(folder / "train.parquet"),
        "val": str(folder / "val.parquet"),
        "prompt": "question",
        "completion": "answer",
        "seq_len": 512,
        "batch_size": 8,
        "packing": False,
    }


def _optimizer(lr: float) -> Config:
    return {"name": "adamw", "lr": lr, "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.05, "grad_clip": 1.0}


def _training(scratch: Path, name: str, steps: int) -> Config:
    return {"max_steps": steps, "seed": 7, "threads": 2, "output_dir": str(scratch / name)}


def _lora(data: Path, scratch: Path, steps: int) -> Config:
    return {
        "model": {"path": str(data / "models" / "base-7m-f16.gguf")},
        "data": _gsm8k(data),
        "optimizer": _optimizer(2e-3),
        "lora": {"rank": 16, "alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "training": _training(scratch, "lora", steps),
    }


def _full(data: Path, scratch: Path, steps: int) -> Config:
    return {
        "model": {"path": str(data / "models" / "base-7m-f16.gguf")},
        "data": _gsm8k(data),
        "optimizer": _optimizer(5e-4),
        "training": _training(scratch, "full", steps),
    }


def _scratch(data: Path, scratch: Path, steps: int) -> Config:
    # At this rate rounding grows a thousandfold in 20 steps: torch against itself, its start changed by 1e-7 of each
    # weight, differs by 1.5e-2 in single steps and 0.002 at the end. So the end is what counts here, not each step.
    train, val = _write_shakespeare(data / "tinyshakespeare.txt", scratch)
    shape = {
        "type": "llama",
        "hidden_size": 128,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 384,
        "vocab_size": 1536,
        "context_length": 256,
    }
    return {
        "model": {"architecture": shape},
        "data": {
            "train": str(train),
            "val": str(val),
            "text": "text",
            "seq_len": 256,
            "batch_size": 8,
            "packing": True,
        },
        "optimizer": _optimizer(3e-3),
        "training": _training(scratch, "scratch", steps),
    }


CASES = (
    Case("LoRA r16, gsm8k", 100, _lora),
    Case("full fine-tuning, gsm8k", 40, _full),
    Case("from scratch, shakespeare", 150, _scratch),
)


def _write_shakespeare(source: Path, folder: Path) -> tuple[Path, Path]:
    """The play as rows of whole paragraphs; the last 5 % of the rows are for validation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(blocks(source.read_text(encoding="utf-8")))
    first_val = len(rows) - round(len(rows) * _VAL_SHARE)
    paths = folder / "shakespeare-train.parquet", folder / "shakespeare-val.parquet"
    for path, part in zip(paths, (rows[:first_val], rows[first_val:]), strict=True):
        pq.write_table(pa.table({"text": part}), path)
    return paths


def blocks(text: str) -> Iterator[str]:
    """Paragraphs joined until they have some 1,500 characters."""
    block = ""
    for paragraph in text.split("\n\n"):
        block += paragraph + "\n\n"
        if len(block) >= _BLOCK_CHARACTERS:
            yield block
            block = ""
    if block:
        yield block
