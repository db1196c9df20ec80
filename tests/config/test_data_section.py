"""The `data` section: how sources are written, which columns a source has, and what excludes what."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from entrenar_core.config.data import Data, Source
from entrenar_core.config.data_conflicts import data_conflicts
from entrenar_core.config.load import config_from_text
from entrenar_core.config.roles import (
    LANGUAGE_TASKS,
    ROLE_NAMES,
    TASK_ROLES,
    RoleName,
    TaskName,
    tasks_with,
)


def data(text: str) -> Data:
    return config_from_text(f"model: {{path: b}}\ndata: {{{text}}}\ntraining: {{max_steps: 9}}", "t.yaml").data


def conflicts(**given: object) -> list[str]:
    return [conflict.key for conflict in data_conflicts(given)]


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("train: a.parquet", [Source(path="a.parquet")]),
        ("train: 'data/*.jsonl'", [Source(path="data/*.jsonl")]),
        ("train: [a, b]", [Source(path="a"), Source(path="b")]),
        ("train: {path: a, weight: 2}", [Source(path="a", weight=2.0)]),
        (
            "train: [a, {path: b, weight: 0.5, task: CHAT, columns: {messages: c}}]",
            [Source(path="a"), Source(path="b", weight=0.5, task="chat", columns={"messages": "c"})],
        ),
    ],
)
def test_sources_are_a_path_a_mapping_or_a_list_of_both(text: str, sources: list[Source]) -> None:
    assert data(text).train == tuple(sources)


def test_validation_data_is_written_in_the_same_way() -> None:
    assert data("train: a").val is None
    assert data("train: a, val: [b, c]").val == (Source(path="b"), Source(path="c"))


def test_short_forms_name_columns() -> None:
    assert data("train: a, prompt: q, completion: r").named_columns == {"prompt": "q", "completion": "r"}
    assert data("train: a, text: t, columns: {label: l}").named_columns == {"label": "l", "text": "t"}
    assert data("train: a").named_columns == {}


def test_a_source_has_its_own_columns_or_those_of_the_section_that_its_task_has() -> None:
    found = data("columns: {text: t, label: l}, train: [a, {path: b, columns: {text: x}}, {path: c, task: text}]")
    assert [found.columns_of(source) for source in found.train] == [
        {"text": "t", "label": "l"},
        {"text": "x"},
        {"text": "t"},
    ]
    assert [found.task_of(source) for source in found.train] == [None, None, "text"]


def test_a_source_has_the_task_of_the_section_by_default() -> None:
    found = data("task: chat, train: [a, {path: b, task: instruction}]")
    assert [found.task_of(source) for source in found.train] == ["chat", "instruction"]


def test_the_table_of_roles_holds_every_task_and_every_role() -> None:
    assert tuple(TASK_ROLES) == get_args(TaskName)
    assert {role for roles in TASK_ROLES.values() for role in roles.all} == set(get_args(RoleName)) == set(ROLE_NAMES)
    assert set(LANGUAGE_TASKS) < set(TASK_ROLES)


def test_roles_tell_the_tasks_that_have_them() -> None:
    assert tasks_with(["text"]) == ["text", "classification", "regression"]
    assert tasks_with(["text", "label"]) == ["classification"]
    assert tasks_with(["messages", "label"]) == []


@pytest.mark.parametrize(
    "given",
    [
        {"train": "a", "columns": {"text": "t", "label": "l"}},
        {"train": "a", "task": "classification", "text": "t"},
        {"train": "a", "task": "classification", "columns": {"label": "l"}, "text": "t", "overlong": "drop"},
        {"train": "a", "prompt": "p", "completion": "c", "separator": " ", "train_on_prompt": True},
        {"train": "a", "task": "instruction", "chat_template": "none", "columns": {"instruction": "i", "output": "o"}},
        {"train": "a", "task": "chat", "chat_template": "chatml", "train_turns": "last", "packing": True},
        {"train": "a", "separator": " ", "chat_template": "chatml", "train_turns": "last"},
        {"train": [{"path": "a", "task": "chat"}, {"path": "b", "task": "text"}], "separator": " "},
        {"train": [{"path": "a", "task": "chat"}, {"path": "a", "task": "text"}]},
        {"train": "a", "auto_infer_types": False, "text": "t"},
        {"train": [{"path": "a", "columns": {"text": "t"}}], "auto_infer_types": False},
        {"train": "a", "streaming": True, "val": "b", "cache_dir": "x"},
        {"train": "a", "val": [{"path": "b", "weight": 1}]},
    ],
)
def test_what_goes_together(given: dict[str, object]) -> None:
    assert conflicts(**given) == []


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"val": "b", "val_fraction": 0.1}, "val_fraction"),
        ({"streaming": True, "val_fraction": 0.1}, "val_fraction"),
        ({"cache": False, "cache_dir": "x"}, "cache_dir"),
        ({"prompt": "p"}, "prompt"),
        ({"columns": {"completion": "c"}}, "columns.completion"),
        ({"text": "t", "prompt": "p"}, "prompt"),
        ({"text": "t", "columns": {"text": "t"}}, "columns.text"),
        ({"columns": {"txt": "t"}}, "columns.txt"),
        ({"task": "chat", "columns": {"text": "t"}}, "columns.text"),
        ({"task": "Chat", "text": "t"}, "text"),
        ({"columns": {"messages": "m", "target": "t"}}, "columns.target"),
        ({"text": "t", "separator": " "}, "separator"),
        ({"text": "t", "train_on_prompt": True}, "train_on_prompt"),
        ({"task": "instruction", "separator": " "}, "separator"),
        ({"task": "regression", "chat_template": "chatml"}, "chat_template"),
        ({"task": "text", "train_turns": "last"}, "train_turns"),
        ({"task": "chat", "chat_template": "none"}, "chat_template"),
        ({"columns": {"text": "t", "target": "y"}, "overlong": "Split"}, "overlong"),
        ({"auto_infer_types": False}, "auto_infer_types"),
        ({"auto_infer_types": False, "task": "classification", "text": "t"}, "auto_infer_types"),
        ({"train": ["a", "a"]}, "train.1"),
        ({"train": ["a", {"path": "b"}, {"path": "b", "weight": 2}]}, "train.2.path"),
        ({"val": {"path": "b", "weight": 2}}, "val.weight"),
        ({"val": ["a", {"path": "b", "weight": 2}]}, "val.1.weight"),
        ({"train": [{"path": "a", "task": "chat"}, {"path": "b", "task": "regression"}]}, "train.1.task"),
    ],
)
def test_what_excludes_what(given: dict[str, object], key: str) -> None:
    assert conflicts(**{"train": "a", **given}) == [key]


def test_a_section_built_in_python_takes_the_same_forms_and_obeys_the_same_rules() -> None:
    assert Data.model_validate({"train": ["a", {"path": "b"}]}).train == (Source(path="a"), Source(path="b"))
    assert Data(train=(Source(path="a"),)).train == (Source(path="a"),)
    with pytest.raises(ValidationError, match="not a column of the task chat"):
        Source(path="a", task="chat", columns={"text": "t"})
    with pytest.raises(ValidationError, match="listed twice"):
        Data(train=(Source(path="a"), Source(path="a", weight=2)))
