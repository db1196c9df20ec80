"""The folder of a finished run with a head, made by hand: base, adapter or whole model, ``head.gguf`` and config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import config_from_text
from entrenar_core.config.resolved import resolved_yaml
from entrenar_core.data.tasks import Task
from entrenar_core.lora.files import adapter_pairs, write_adapter
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.head_file import write_head
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.model.tiny import build, lively
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

MOODS = HeadSpec(Task.CLASSIFICATION, ("bad", "good", "so-so"), "review", "mood")
STARS = HeadSpec(Task.REGRESSION, (), "review", "stars", mean=3.0, std=1.5)


def write_run(folder: Path, spec: HeadSpec, *, adapter: bool = True, **data: Any) -> SequenceModel:
    """``base.gguf`` and the folder ``run`` of a model with a head; the same model in memory.

    `data` are more keys of the data section. Without an adapter ``model.gguf`` is the base.
    """
    run = folder / "run"
    run.mkdir()
    write_base(folder / "base.gguf")
    backbone = build(base_spec(), backend=CpuBackend(1), trainable=False)
    if adapter:
        _adapt(backbone)
        write_adapter(run / "adapter.gguf", "llama", adapter_pairs(backbone), alpha=8.0)
    else:
        write_base(run / "model.gguf")
    sizes = (spec.n_outputs, 32)
    model = attach_head(backbone, spec, lively("cls.output.weight", sizes), lively("cls.output.bias", sizes[:1]))
    write_head(run / "head.gguf", model)
    roles = {"text": spec.text_column, "label" if spec.is_classification else "target": spec.target_column}
    section = {"train": str(folder / "train.parquet"), "task": spec.task.value, "columns": roles, "batch_size": 4}
    content = {
        "model": {"path": str(folder / "base.gguf")},
        "data": section | data,
        "training": {"output_dir": str(run), "max_steps": 1},
    }
    if adapter:
        content["lora"] = {"rank": 4, "alpha": 8}
    config = config_from_text(yaml.safe_dump(content), "test")
    (run / "config.resolved.yaml").write_text(resolved_yaml(config))
    return model


def _adapt(backbone: LanguageModel) -> None:
    inject_lora(backbone, LoRASettings(rank=4, alpha=8, targets="all"), seed=3)
    for name, tensor in backbone.trainable().items():
        if name.endswith("lora_b"):
            tensor.data[...] = 0.3 * lively(name, tensor.shape)


def tokenizer() -> Tokenizer:
    return tokenizer_from_metadata({key: value.plain for key, value in tokenizer_entries()}, "tiny")


def expected_outputs(model: SequenceModel, text: str, seq_len: int = 64) -> np.ndarray:
    """The head on the last token of one text that is read alone, [C]."""
    bos, eos = tokenizer().bos_id, tokenizer().eos_id
    ids = [*([bos] if tokenizer().add_bos else []), *tokenizer().encode(text), eos]
    tokens = np.array([ids if len(ids) <= seq_len else [*ids[: seq_len - 1], eos]], np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    weight, bias = model.head_values()
    return model.backbone.hidden_states(tokens, positions, np.zeros_like(tokens)).numpy()[0, -1] @ weight.T + bias
