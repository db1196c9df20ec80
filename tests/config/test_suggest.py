"""What an unknown key is answered with."""

from __future__ import annotations

import re

import pytest

from entrenar_core.config.base import schema_fields
from entrenar_core.config.describe import allowed_words
from entrenar_core.config.foreign_keys import (
    COLUMN_ROLES,
    EXPLAINED,
    EXPLANATIONS,
    OTHER_NAMES,
    RENAMED,
    SPECIAL_VALUES,
)
from entrenar_core.config.roles import ROLE_NAMES
from entrenar_core.config.root import Config
from entrenar_core.config.suggest import hint_for_key, hint_for_value, near_word

KNOWN = [path for path, _ in schema_fields(Config)]
DOTTED = {".".join(path) for path in KNOWN}


def test_every_key_that_is_advised_exists() -> None:
    assert {target for target in RENAMED.values() if target not in DOTTED} == set()
    advised = {word for text in EXPLAINED.values() for word in re.findall(r"\b[a-z]+\.[a-z_]+\b", text)}
    assert advised - {"metrics.jsonl"} <= DOTTED


def test_every_name_is_listed_once() -> None:
    listed = [name for names in (*OTHER_NAMES.values(), *EXPLANATIONS.values()) for name in names.split()]
    assert sorted(name for name in set(listed) if listed.count(name) > 1) == []


def test_columns_are_advised_by_roles_that_exist() -> None:
    assert set(COLUMN_ROLES.values()) <= set(ROLE_NAMES)


def test_no_special_value_is_an_allowed_one() -> None:
    fields = {".".join(path): field for path, field in schema_fields(Config)}
    assert [(key, value) for key, value in SPECIAL_VALUES if value in allowed_words(fields[key])] == []


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
        ("load_in_4bit", "use quantize.bits"),
        ("merge_method", "use merge.method"),
        ("chat_template", "use data.chat_template"),
        ("task", "use data.train.task or data.task"),
        ("percentile", "use quantize.calibration.percentile"),
        ("roles_to_train", "use data.train_turns"),
        ("dataset_prepared_path", "use data.cache_dir"),
        ("messages", "use data.columns: {messages: COLUMN}"),
        ("data.conversations", "use data.columns: {messages: COLUMN}"),
        ("data.output", "use data.columns: {output: COLUMN}"),
        ("data.train.label", "use data.train.columns: {label: COLUMN}"),
        ("data.train.wieght", "did you mean data.train.weight?"),
        ("trainer", "use training"),
        ("teacher_model_name_or_path", "use distill.teacher"),
        ("distill.lmbda", "use distill.on_policy.fraction"),
        ("distill.top_k", "use distill.cache.top_k"),
        ("student_model", "use distill.student"),
        ("wandb_project", EXPLAINED["wandb_project"]),
        ("use_dora", "this kind of adapter is not available yet in this release; remove it"),
        ("merge.lamda", "did you mean merge.lambda?"),
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


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("data.task", "SFT", "did you mean prompt_completion, instruction or chat?"),
        ("data.task", "clasification", "did you mean classification?"),
        ("quantize.type", "nf4", "did you mean q4_0? GGUF has no nf4"),
        ("data.streaming", "auto", "write null, which decides by size, or leave it out"),
        ("output.type", "q4_km", "did you mean q4_k_m?"),
    ],
)
def test_values_that_people_try(path: str, value: str, hint: str) -> None:
    fields = {".".join(path): field for path, field in schema_fields(Config)}
    assert hint_for_value(tuple(path.split(".")), value, allowed_words(fields[path])) == hint
