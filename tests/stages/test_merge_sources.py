"""Merges of models that come in different forms and with different tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ModelError
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.lora.files import AdapterPair, write_adapter
from entrenar_core.stages.merge import MergeResult, run_merge
from tests.hugging_face.folder import write_folder
from tests.merge.memory_models import merge_of
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

Q, EMBEDDING, OUTPUT = "blk.0.attn_q.weight", "token_embd.weight", "output.weight"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(models: list[Any], **more: Any) -> MergeResult:
    return run_merge(merge_of("linear", models, {"path": "out.gguf"}, **more), SilentReporter(), overwrite=True)


def values_of(path: str) -> dict[str, np.ndarray]:
    with GGUFFile.open(path) as file:
        return {name: file.load(name) for name in file.tensors}


def shifted(seed: int) -> dict[str, np.ndarray]:
    spec = base_spec()
    return {name: values + lively(f"{name}{seed}", values.shape) for name, values in lively_weights(spec).items()}


def test_a_gguf_a_folder_and_an_adapter_on_a_gguf_are_merged(folder: Path) -> None:
    one, two, base = shifted(1), shifted(2), lively_weights(base_spec())
    pair = AdapterPair(lively("a", (4, 32)), lively("b", (32, 4)), 2.0)
    write_base(folder / "one.gguf", replaced=one)
    write_folder(folder / "two", base_spec(), two, tokenizer=tokenizer_entries(), n_files=2)
    write_base(folder / "base.gguf")
    write_adapter(folder / "adapter.gguf", "llama", {Q: pair}, alpha=8.0)
    merged(["one.gguf", "two", {"path": "base.gguf", "adapter": "adapter.gguf"}])
    for name, values in values_of("out.gguf").items():
        third = base[name] + (pair.delta() if name == Q else 0)
        np.testing.assert_allclose(values, (one[name] + two[name] + third) / 3, atol=1e-5, err_msg=name)


def with_another_token(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """A model with one token more than the others, in the middle of their vocabulary."""
    entries = dict(tokenizer_entries())
    tokens, kinds = entries["tokenizer.ggml.tokens"].value, entries["tokenizer.ggml.token_type"].value
    more = [*tokens[:10], "<|new|>", *tokens[10:]]
    changed = [
        ("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, more)),
        ("tokenizer.ggml.token_type", MetadataValue.array(ValueType.INT32, [*kinds[:10], 3, *kinds[10:]])),
    ]
    rows = {name: np.insert(weights[name], 10, lively(f"{name}new", (32,)), axis=0) for name in (EMBEDDING, OUTPUT)}
    return write_base(path, base_spec(vocab_size=len(more)), replaced={**weights, **rows}, extra=changed)


def test_models_with_other_tokens_are_merged_row_by_token(folder: Path) -> None:
    one, two = lively_weights(base_spec()), shifted(2)
    write_base(folder / "one.gguf", replaced=one)
    with_another_token(folder / "two.gguf", two)
    with pytest.raises(ModelError, match="the tokens differ"):
        merged(["one.gguf", "two.gguf"])
    result = merged(["one.gguf", "two.gguf"], tokenizer="union")
    values, n_tokens = values_of("out.gguf"), len(one[EMBEDDING])
    for name in (EMBEDDING, OUTPUT):
        np.testing.assert_allclose(values[name][:n_tokens], (one[name] + two[name]) / 2, atol=1e-5)
        np.testing.assert_allclose(values[name][n_tokens], lively(f"{name}new", (32,)), atol=1e-5)
    with GGUFFile.open("out.gguf") as file:
        assert file.metadata["tokenizer.ggml.tokens"][-1] == "<|new|>"
        assert file.metadata["llama.vocab_size"] == n_tokens + 1
    assert result.vocabulary["rows"] == n_tokens + 1
    merged(["one.gguf", "two.gguf"], tokenizer="base")
    values = values_of("out.gguf")
    np.testing.assert_allclose(values[EMBEDDING], (one[EMBEDDING] + two[EMBEDDING]) / 2, atol=1e-5)
