"""How near the estimated peak memory comes to the measured one: `entrenar train` on random weights of s134's shape.

Each configuration is estimated first, from the header of the base file, and then run for two steps in a process of its
own. Takes a few minutes and about 4 GB of memory and disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.big_lora import texts
from benchmarks.command import train_command
from benchmarks.random_gguf import write_random_gguf
from benchmarks.real_data import ABSENT, gsm8k_section, shared_data
from benchmarks.shapes import S134
from entrenar_core.config.load import load_config
from entrenar_core.events import SilentReporter
from entrenar_core.stages.base_model import lora_settings, open_base
from entrenar_core.stages.dataset import load_datasets, open_data
from entrenar_core.stages.estimate import MemoryEstimate, MemoryRequest, batch_shapes, estimate_memory

LIMIT_PERCENT = 15
STEPS = 2
GIB = 1 << 30

LORA = {"rank": 16, "alpha": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "full fine-tuning": {},
    "LoRA": {"lora": LORA},
    "LoRA, batch of 8": {"lora": LORA, "data": {"batch_size": 8}},
    "LoRA, rows of 1024": {"lora": LORA, "data": {"seq_len": 1024}},
    "LoRA on a Q4_0 base": {"lora": LORA, "quantize": {"bits": 4}},
    "full, checkpointing": {"data": {"batch_size": 4}, "training": {"activation_checkpointing": True}},
    "full, SGD": {"optimizer": {"name": "sgd", "lr": 1e-2}},
    "LoRA, rows unpacked": {"lora": LORA, "data": {"packing": False, "batch_size": 8}, "training": {"max_steps": 8}},
}


def run() -> list[str]:
    """A row for each configuration: the parts, the sum, the measured peak, and the difference."""
    data = shared_data()
    if data is None:
        return [f"memory_estimate: {ABSENT}"]
    lines = [f"estimated and measured peak memory of `entrenar train`, shape {S134.name}, F16 GGUF, gsm8k, B2 T512"]
    with tempfile.TemporaryDirectory(prefix="entrenar-memory-") as name:
        scratch = Path(name)
        write_random_gguf(scratch / "base.gguf", S134, texts(data / "gsm8k" / "train.parquet"))
        rows = [_row(title, scratch, data, changes) for title, changes in CONFIGS.items()]
    worst = max(abs(difference) for _, difference in rows)
    verdict = "within" if worst <= LIMIT_PERCENT else "ABOVE"
    return [*lines, *(line for line, _ in rows), f"  largest difference {worst:.1f} % ({verdict} {LIMIT_PERCENT} %)"]


def _row(title: str, scratch: Path, data: Path, changes: dict[str, Any]) -> tuple[str, float]:
    """The line of one configuration, and by how many percent the estimate is too large."""
    config: dict[str, Any] = {
        "model": {"path": str(scratch / "base.gguf")},
        "data": gsm8k_section(data) | {"cache": False},
        "training": {"max_steps": STEPS, "threads": 2, "output_dir": str(scratch / title.replace(" ", "-"))},
    }
    for section, keys in changes.items():
        config[section] = {**config.get(section, {}), **keys}
    estimate = _estimate(config, scratch)
    measured = train_command(config, scratch, name="run").peak_resident
    difference = 100 * (estimate.total / measured - 1)
    parts = ", ".join(f"{name} {n_bytes / GIB:.2f}" for name, n_bytes in estimate.parts)
    print(f"  [{title}] {difference:+.1f} %", file=sys.stderr, flush=True)
    sizes = f"{estimate.total / GIB:.2f} GiB estimated, {measured / GIB:.2f} measured"
    return f"  {title:20} {sizes}, {difference:+.1f} %\n      {parts}", difference


def _estimate(content: dict[str, Any], scratch: Path) -> MemoryEstimate:
    path = scratch / "estimate.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    config = load_config(path)
    base = open_base(config, SilentReporter())
    try:
        assert base.file is not None
        datasets = load_datasets(config, base, open_data(config, base, SilentReporter()), SilentReporter())
        examples = datasets.first_examples()
        return estimate_memory(
            MemoryRequest(
                spec=base.spec,
                optimizer=config.optimizer,
                batches=batch_shapes(datasets.train_loader, config.training.max_steps or STEPS),
                lora=None if config.lora is None else lora_settings(config),
                checkpoint_activations=config.training.activation_checkpointing,
                threads=config.training.threads,
                held_as=base.held_as,
                tensors=dict(base.file.tensors),
                base_bytes=sum(file.stat().st_size for file in base.file.paths),
                data_tokens=len(examples.tokens),
                data_examples=len(examples),
                data_bytes=Path(config.data.train[0].path).stat().st_size,
            )
        )
    finally:
        base.close()
