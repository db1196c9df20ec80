"""What an unknown key is answered with."""

from __future__ import annotations

import re

import pytest

from entrenar_core.config.base import schema_fields
from entrenar_core.config.root import Config
from entrenar_core.config.suggest import EXPLAINED, RENAMED, hint_for_key, near_word

KNOWN = [path for path, _ in schema_fields(Config)]
DOTTED = {".".join(path) for path in KNOWN}


def test_every_key_that_is_advised_exists() -> None:
    assert {target for target in RENAMED.values() if target not in DOTTED} == set()
    advised = {word for text in EXPLAINED.values() for word in re.findall(r"\b[a-z]+\.[a-z_]+\b", text)}
    assert advised - {"metrics.jsonl"} <= DOTTED


def test_no_key_is_both_renamed_and_explained() -> None:
    assert set(RENAMED) & set(EXPLAINED) == set()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rate", "use optimizer.lr"),
        ("training.lr", "use optimizer.lr"),
        ("num_epochs", "use training.epochs"),
        ("lora_r", "use lora.rank"),
        ("lora.r", "use lora.rank"),
        ("micro_batch_size", "use data.batch_size"),
        ("per_device_train_batch_size", "use data.batch_size"),
        ("training.gradient-accumulation-steps", "use training.grad_accum"),
        ("base_model", "use model.path"),
        ("model.model_name_or_path", "use model.path"),
        ("sequence_len", "use data.seq_len"),
        ("cutoff_len", "use data.seq_len"),
        ("warmup_steps", "use optimizer.warmup"),
        ("lr_scheduler", "use optimizer.schedule"),
        ("lora_target_modules", "use lora.target_modules"),
        ("val_set_size", "use data.val_fraction"),
        ("datasets", "use data.train"),
        ("data.batch_sise", "did you mean data.batch_size?"),
        ("Lora", "did you mean lora?"),
        ("rank", "use lora.rank"),
        ("type", "use model.architecture.type or quantize.type or output.type"),
        ("training.early_stopping.patiense", "did you mean training.early_stopping.patience?"),
        ("lora.xyz", "lora has rank, alpha, dropout, target_modules, rslora, init"),
    ],
)
def test_keys_of_other_tools_and_misspellings(key: str, hint: str) -> None:
    assert hint_for_key(tuple(key.split(".")), KNOWN) == hint


def test_a_word_inside_a_longer_one_is_found() -> None:
    assert near_word("paged_adamw_8bit", ["sgd", "adam", "adamw"]) == "adamw"
    assert near_word("lion", ["sgd", "adam", "adamw"]) is None
