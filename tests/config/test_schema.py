"""What a configuration may say, and what it means when it says nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from entrenar_core.config.base import schema_fields
from entrenar_core.config.data import Data
from entrenar_core.config.load import config_from_text
from entrenar_core.config.lora import Lora
from entrenar_core.config.model import Architecture, Model
from entrenar_core.config.optimizer import Optimizer
from entrenar_core.config.output import Output
from entrenar_core.config.root import Config
from entrenar_core.config.training import EarlyStopping, Training

SMALLEST = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"
SHAPE = "type: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 512"


def read(text: str) -> Config:
    return config_from_text(text, "test.yaml")


def test_model_and_data_are_all_that_is_needed() -> None:
    config = read(SMALLEST)
    assert config == Config(model=Model(path="base.gguf"), data=Data(train="a.parquet"))
    assert config.lora is None
    assert config.optimizer == Optimizer()
    assert config.training.epochs == 1
    assert config.output.adapter == "none"


def test_the_example_of_the_design_is_read_as_it_stands() -> None:
    config = read("""
model:      {path: base.gguf, layers: [q_proj, k_proj, v_proj, o_proj]}
data:       {train: train.parquet, batch_size: 8, auto_infer_types: true}
optimizer:  {name: adam, lr: 1e-4}
lora:       {rank: 64, alpha: 16}
quantize:   {bits: 4, symmetric: true}
merge:      {method: TIES, density: 0.2}
""")
    assert config.optimizer.name == "adam"
    assert config.optimizer.lr == 1e-4
    assert config.lora == Lora(rank=64, alpha=16.0)
    assert config.output.adapter == "gguf"
    assert config.quantize is not None
    assert (config.quantize.mix, config.quantize.stage) == ("q4_0", "base")
    assert config.merge is not None
    assert (config.merge.method, config.merge.density, config.merge.normalize) == ("ties", 0.2, True)


def test_every_key_is_described() -> None:
    assert [path for path, field in schema_fields(Config) if not field.description] == []


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read(SMALLEST).training.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.01), ("adam", 0.0), ("sgd", 0.0)])
def test_weight_decay_is_on_by_default_only_for_adamw(name: str, decay: float) -> None:
    assert read(SMALLEST + f"optimizer: {{name: {name}}}").optimizer.weight_decay == decay


def test_names_are_case_insensitive() -> None:
    config = read(SMALLEST + "optimizer: {name: AdamW, schedule: Cosine}\noutput: {type: BF16}")
    assert (config.optimizer.name, config.optimizer.schedule, config.output.type) == ("adamw", "cosine", "bf16")


def test_the_length_of_a_run_is_one_epoch_unless_it_is_said() -> None:
    assert (Training().epochs, Training().max_steps) == (1, None)
    assert (Training(max_steps=5).epochs, Training(max_steps=5).max_steps) == (None, 5)
    assert (Training(epochs=3).epochs, Training(epochs=3).max_steps) == (3, None)


@pytest.mark.parametrize(("given", "kept"), [("0", 0), ("100", 100), ("0.05", 0.05), ("0.0", 0.0)])
def test_warmup_is_steps_or_a_fraction(given: str, kept: float) -> None:
    warmup = read(SMALLEST + f"optimizer: {{warmup: {given}}}").optimizer.warmup
    assert warmup == kept
    assert type(warmup) is type(kept)


def test_targets_come_from_lora_then_from_the_model_then_are_attention() -> None:
    with_layers = "model: {path: base.gguf, layers: [up_proj]}\ndata: {train: a.parquet}\n"

    def targets(text: str) -> object:
        lora = read(text).lora
        return lora and lora.target_modules

    assert targets(SMALLEST + "lora: {}") == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert targets(with_layers + "lora: {}") == ("up_proj",)
    assert targets(with_layers + "lora: {target_modules: [v_proj]}") == ("v_proj",)
    assert targets(SMALLEST + "lora: {target_modules: ALL}") == "all"


def test_the_shape_of_heads_follows_from_the_width() -> None:
    shape = read(f"model: {{architecture: {{{SHAPE}}}}}\ndata: {{train: a.parquet}}").model.architecture
    assert shape is not None
    assert (shape.num_kv_heads, shape.head_dim, shape.context_length) == (4, 16, 2048)
    assert (shape.rope_theta, shape.norm_eps, shape.tie_embeddings) == (10000.0, 1e-5, False)


def test_a_given_head_size_need_not_divide_the_width() -> None:
    shape = Architecture(
        type="qwen3", hidden_size=100, num_layers=1, num_heads=6, head_dim=32, intermediate_size=8, vocab_size=300
    )
    assert shape.head_dim == 32


def test_a_small_vocabulary_is_fine_with_a_tokenizer_of_its_own() -> None:
    text = f"model: {{architecture: {{{SHAPE.replace('512', '32')}}}, tokenizer: t.gguf}}\ndata: {{train: a.parquet}}"
    assert read(text).model.tokenizer == "t.gguf"


def test_sections_without_keys_have_their_defaults() -> None:
    config = read(SMALLEST + "optimizer:\ntraining:\noutput:\n")
    assert (config.optimizer, config.training, config.output) == (Optimizer(), Training(), Output())


def test_early_stopping_with_validation_data() -> None:
    config = read(
        "model: {path: base.gguf}\ndata: {train: a.parquet, val_fraction: 0.1}\n"
        "training: {early_stopping: {patience: 2}}"
    )
    assert config.training.early_stopping == EarlyStopping(patience=2, min_delta=0.0)


def test_a_section_built_in_python_obeys_the_same_rules() -> None:
    with pytest.raises(ValidationError, match="adam has no momentum"):
        Optimizer(name="adam", momentum=0.9)
    with pytest.raises(ValidationError, match="needs validation data"):
        Config(model=Model(path="b"), data=Data(train="a"), training=Training(eval_every=5))
    with pytest.raises(ValidationError, match=r"cannot go together with model\.path"):
        Model(path="b", tokenizer="t")


def test_a_config_built_in_python_fills_what_sections_say_to_each_other() -> None:
    config = Config(model=Model(path="b"), data=Data(train="a"), lora=Lora(rank=4))
    assert config.output.adapter == "gguf"
