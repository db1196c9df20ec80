"""A base model and a data set small enough that a whole run takes a moment: D 32, two layers, a vocabulary of 300.

The GGUF carries what real files carry and a careless rewrite loses: odd value types, a chat template, a file type. All
tensors are drawn by name (`tests.model.tiny`), so equal calls write equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.config.root import Config
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.train import RunResult, run_training
from entrenar_core.tokenizer.train import train_bpe
from tests.model.tiny import build, lively_weights, tiny_spec
from tests.train.tiny_model import Listener

VOCAB, CONTEXT = 300, 64
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8}
NAMES, THINGS = ("Ada", "Bo", "Cleo", "Dan"), ("red ball", "blue hat", "old key", "small boat", "green lamp")

NEW_MODEL: dict[str, Any] = {
    "path": None,
    "architecture": {
        "type": "llama",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCAB,
        "context_length": 32,
    },
}
"""A `model` section that starts from random weights."""

Entries = list[tuple[str, MetadataValue]]


def stories() -> list[tuple[str, str]]:
    """Twenty prompts and what to answer."""
    return [(f"{name} saw a {thing}.", f"It was {name}'s {thing}.") for name in NAMES for thing in THINGS]


def write_data(folder: Path, *, text: bool = False) -> Path:
    """``train.parquet``: the stories, in columns prompt and completion or in one column text."""
    path = folder / "train.parquet"
    prompts, completions = zip(*stories(), strict=True)
    columns = (
        {"text": [" ".join(pair) for pair in stories()]} if text else {"prompt": prompts, "completion": completions}
    )
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


@cache
def tokenizer_entries() -> tuple[tuple[str, MetadataValue], ...]:
    """A vocabulary learned from the stories, as GGUF keys."""
    return tuple(train_bpe([" ".join(pair) for pair in stories()], VOCAB))


def vocab_size() -> int:
    return len(dict(tokenizer_entries())["tokenizer.ggml.tokens"].value)


def base_spec(architecture: str = "llama", **changes: Any) -> DecoderSpec:
    """D 32, four query heads of 8 on two kv heads, F 64."""
    sizes = {"hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 64, "context_length": CONTEXT}
    return tiny_spec(architecture, **{**sizes, "vocab_size": vocab_size(), **changes})


def base_entries(spec: DecoderSpec, type_name: str = "F32") -> Entries:
    """The keys of the base model, some of them of the kinds that are easily lost."""
    nested = [MetadataValue.array(ValueType.INT16, [1, -2]), MetadataValue.array(ValueType.INT16, [])]
    return [
        *spec_metadata(spec, "tiny"),
        ("general.file_type", MetadataValue.uint32(FILE_TYPES[type_name])),
        ("general.tags", MetadataValue.array(ValueType.STRING, ["a", "", "é"])),
        ("test.small", MetadataValue(ValueType.INT8, -7)),
        ("test.large", MetadataValue(ValueType.UINT64, 2**63 + 1)),
        ("test.double", MetadataValue(ValueType.FLOAT64, 0.1)),
        ("test.nested", MetadataValue.array(ValueType.ARRAY, nested)),
        *tokenizer_entries(),
        ("tokenizer.chat_template", MetadataValue.string("{% for m in messages %}{{ m.content }}\n{% endfor %}")),
    ]


def write_base(
    path: Path,
    spec: DecoderSpec | None = None,
    *,
    type_name: str = "F32",
    replaced: Mapping[str, np.ndarray] | None = None,
    extra: Sequence[tuple[str, MetadataValue]] = (),
    without: Sequence[str] = (),
) -> Path:
    """A base model; matrices are of `type_name`, vectors F32. `replaced` tensors take the place of the drawn ones,
    `extra` keys are added, those in `without` left out."""
    spec = base_spec() if spec is None else spec
    weights = {**lively_weights(spec), **(replaced or {})}
    entries = {**dict(base_entries(spec, type_name)), **dict(extra)}
    plans = [_plan(name, values, type_name if values.ndim > 1 else "F32") for name, values in weights.items()]
    write_gguf(path, [(key, value) for key, value in entries.items() if key not in without], plans)
    return path


def _plan(name: str, values: np.ndarray, type_name: str) -> TensorPlan:
    """Block types are packed by gguf-py, which is nobody's code under test."""
    if type_name in ("F32", "F16", "BF16"):
        return encode_tensor(name, values, type_name)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name])
    return TensorPlan(name, values.shape, type_name, lambda: packed)


def write_config(folder: Path, **sections: Any) -> Path:
    """``config.yaml``: a LoRA run of three steps on ``base.gguf`` and ``train.parquet`` of `folder`, to ``folder/run``.

    `sections` are merged into it key by key; None removes a section.
    """
    content: dict[str, Any] = {
        "model": {"path": str(folder / "base.gguf")},
        "data": {"train": str(folder / "train.parquet"), "batch_size": 4},
        "optimizer": {"lr": 0.01},
        "lora": {"rank": 4, "alpha": 8, "target_modules": "all"},
        "training": {"max_steps": 3, "threads": 1, "output_dir": str(folder / "run")},
    }
    for name, section in sections.items():
        content[name] = None if section is None else {**(content.get(name) or {}), **section}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def config(folder: Path, **sections: Any) -> Config:
    """See `write_config`."""
    return load_config(write_config(folder, **sections))


def train(folder: Path, **sections: Any) -> tuple[RunResult, Listener]:
    """Run `config`; the result and everything that was reported."""
    listener = Listener()
    return run_training(config(folder, **sections), reporter=listener), listener


def layers_as(file: GGUFFile, type_name: str | None) -> dict[str, str]:
    """Every matrix of a layer in blocks of one type; None: none of them."""
    matrices = {name for name, info in file.tensors.items() if name.startswith("blk.") and len(info.shape) == 2}
    return {} if type_name is None else dict.fromkeys(matrices, type_name)


def model_on_cpu(spec: DecoderSpec | None = None, weights: dict[str, np.ndarray] | None = None) -> LanguageModel:
    """The same model in memory, frozen, on the real backend."""
    return build(base_spec() if spec is None else spec, weights, CpuBackend(1), trainable=False)
