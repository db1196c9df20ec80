"""A resolved configuration says everything, and reading it changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.config.data import Data
from entrenar_core.config.load import config_from_text
from entrenar_core.config.model import Model
from entrenar_core.config.resolved import config_hash, resolved_yaml
from entrenar_core.config.root import Config

CONFIGS = [
    "model: {path: base.gguf}\ndata: {train: a.parquet}",
    "model: {path: base.gguf, layers: [up_proj]}\ndata: {train: a, text: body}\nlora: {rank: 4}",
    "model: {path: base.gguf}\ndata: {train: a, prompt: q, completion: a, separator: ' '}\nlora: {target_modules: all}",
    "model: {path: base.gguf}\ndata: {train: a}\noptimizer: {name: sgd, momentum: 0.9, nesterov: true}",
    "model: {path: base.gguf}\ndata: {train: a}\noptimizer: {name: adam, warmup: 0.1, schedule: linear,"
    " min_lr_ratio: 0.1}",
    "model: {path: base.gguf}\ndata: {train: a, val: b}\ntraining: {max_steps: 10, eval_every: 5,"
    " early_stopping: {patience: 3}}\noutput: {type: f16}",
    "model: {path: b}\ndata: {train: [a, {path: b, weight: 0.5, task: chat, columns: {messages: c}}], val: v,"
    " cache: false}",
    "model: {path: b}\ndata: {train: a, columns: {text: t, label: l}, overlong: drop}\nlora: {}\n"
    "quantize: {bits: 8}\nmerge: {method: Task_Arithmetic, lambda: 0.5, models: [m.gguf, {path: n, weight: -1}]}",
    "model: {path: b}\ndata: {train: a}\ninput_features: [{name: x, type: text}]\n"
    "output_features: [{name: y, type: number}]",
    "model: {path: b}\ndata: {train: a, task: chat, chat_template: 'price: $${ x }', train_turns: LAST}",
    "model: {architecture: {type: qwen3, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2,"
    " intermediate_size: 128, vocab_size: 512}}\ndata: {train: a}\noptimizer: {grad_clip: null}",
]


@pytest.mark.parametrize("text", CONFIGS)
def test_reading_a_resolved_configuration_gives_an_equal_one(text: str) -> None:
    config = config_from_text(text, "test.yaml")
    resolved = resolved_yaml(config)
    again = config_from_text(resolved, "resolved.yaml")
    assert again == config
    assert resolved_yaml(again) == resolved
    assert config_hash(again) == config_hash(config)


def test_the_version_comes_first_and_defaults_are_written() -> None:
    resolved = resolved_yaml(config_from_text(CONFIGS[0], "test.yaml"))
    assert resolved.startswith("version: 1\nmodel:\n  path: base.gguf\n")
    for line in ("  batch_size: 8", "  weight_decay: 0.01", "lora: null", "  epochs: 1", "  seed: 42"):
        assert f"{line}\n" in resolved


def test_keys_of_other_optimizers_are_not_written() -> None:
    assert "momentum" not in resolved_yaml(config_from_text(CONFIGS[0], "test.yaml"))
    assert "betas" not in resolved_yaml(config_from_text(CONFIGS[3], "test.yaml"))


@pytest.mark.property
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
    | st.sampled_from(["1e-4", "on", "0o7", "~", "a\nb", "${HOME}", "$${", "${"])
)
def test_any_text_survives(text: str) -> None:
    config = Config(model=Model(path="base.gguf"), data=Data(train="a", text=text))
    assert config_from_text(resolved_yaml(config), "resolved.yaml") == config


@pytest.mark.property
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_any_learning_rate_survives(lr: float) -> None:
    config = Config.model_validate({"model": {"path": "b"}, "data": {"train": "a"}, "optimizer": {"lr": lr}})
    assert config_from_text(resolved_yaml(config), "resolved.yaml") == config


def test_the_hash_is_stable_and_knows_every_change_but_the_folder() -> None:
    hashes = [
        config_hash(config_from_text(CONFIGS[0], "test.yaml", overrides))
        for overrides in ([], ["training.seed=42"], ["training.output_dir=elsewhere"], ["training.seed=43"])
    ]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert len(hashes[0]) == 64
