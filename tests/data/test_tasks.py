"""What data are for and which columns are read: well-known names, types, and what the YAML names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from entrenar_core.config.roles import TASK_ROLES
from entrenar_core.data.column_types import ColumnType
from entrenar_core.data.task_columns import yaml_name
from entrenar_core.data.task_names import (
    CLASS_NAMES,
    CONTEXT_NAMES,
    CORPUS_NAMES,
    EITHER_NAMES,
    HEAD_NAMES,
    INPUT_NAMES,
    INSTRUCTION_NAMES,
    MESSAGES_NAMES,
    NUMBER_NAMES,
    OUTPUT_NAMES,
    PAIR_NAMES,
    QUESTION_NAMES,
    TEXT_NAMES,
    TOOLS_NAMES,
)
from entrenar_core.data.tasks import Task, TaskColumns
from entrenar_core.errors import DataError
from tests.data.task_table import CASES, Case, choose, refused, table

# -- inferred -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if case.task != "tie"], ids=lambda case: case.comment)
def test_the_task_and_the_columns_of_a_real_looking_table(case: Case) -> None:
    assert choose(table(**case.columns)) == TaskColumns(Task(case.task), case.roles, inferred=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.comment)
def test_the_order_of_columns_does_not_change_the_answer(case: Case) -> None:
    columns = table(**case.columns)
    orders = [dict(order) for order in itertools.permutations(columns.items())]
    assert len({outcome(order) for order in orders}) == 1


def outcome(columns: dict[str, ColumnType]) -> str:
    try:
        return str(choose(columns))
    except DataError as error:
        return error.message


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [(prompt, completion) for prompt, answers in PAIR_NAMES.items() for completion in answers],
)
def test_a_well_known_pair_is_found_in_any_case(prompt: str, completion: str) -> None:
    columns = table(completion.upper(), prompt.title(), source_url="url", id="id")
    assert choose(columns).columns == {"prompt": prompt.title(), "completion": completion.upper()}


@pytest.mark.parametrize("output", OUTPUT_NAMES)
@pytest.mark.parametrize("more", INPUT_NAMES)
def test_a_well_known_instruction_is_found_with_its_input(more: str, output: str) -> None:
    roles = {"instruction": "Instruction", "input": more, "output": output}
    assert choose(table("Instruction", more, output)) == TaskColumns(Task.INSTRUCTION, roles)


@pytest.mark.parametrize("name", MESSAGES_NAMES)
def test_well_known_messages_are_found(name: str) -> None:
    assert choose(table(other="text", **{name: "sharegpt"})).columns == {"messages": name}


@pytest.mark.parametrize("name", [*CLASS_NAMES, *EITHER_NAMES])
def test_a_well_known_label_is_found(name: str) -> None:
    assert choose(table("review", title="short", **{name: "category"})).columns == {"text": "review", "label": name}


@pytest.mark.parametrize("name", [*NUMBER_NAMES, *EITHER_NAMES])
def test_a_well_known_target_is_found(name: str) -> None:
    assert choose(table("review", title="short", **{name: "number"})).columns == {"text": "review", "target": name}


def test_every_well_known_name_is_documented(project_root: Path) -> None:
    page = (project_root / "docs" / "inference.md").read_text()
    answers = {name for names in PAIR_NAMES.values() for name in names}
    plain = {*TEXT_NAMES, *INSTRUCTION_NAMES, *INPUT_NAMES, *OUTPUT_NAMES, *MESSAGES_NAMES, *TOOLS_NAMES}
    known = {*PAIR_NAMES, *answers, *plain, *QUESTION_NAMES, *CONTEXT_NAMES, *HEAD_NAMES, *CORPUS_NAMES}
    assert {name for name in known if f"`{name}`" not in page} == set()


def test_the_roles_of_a_task_are_those_of_the_yaml() -> None:
    assert [task.value for task in Task] == list(TASK_ROLES)
    assert Task.INSTRUCTION.roles.all == ("instruction", "output", "input")


# -- named columns --------------------------------------------------------------------------------------------------


def test_a_named_column_is_taken_even_where_names_would_say_otherwise() -> None:
    assert choose(table("text", "story"), text="story") == TaskColumns(Task.TEXT, {"text": "story"}, inferred=False)


@pytest.mark.parametrize(
    ("named", "task"),
    [
        ({"text": "a"}, Task.TEXT),
        ({"prompt": "a", "completion": "b"}, Task.PROMPT_COMPLETION),
        ({"instruction": "a", "output": "b"}, Task.INSTRUCTION),
        ({"instruction": "a", "input": "c", "output": "b"}, Task.INSTRUCTION),
        ({"messages": "m"}, Task.CHAT),
        ({"text": "a", "label": "k"}, Task.CLASSIFICATION),
        ({"text": "a", "target": "n"}, Task.REGRESSION),
    ],
)
def test_the_roles_of_named_columns_tell_the_task(named: dict[str, str], task: Task) -> None:
    columns = table("a", "b", "c", m="messages", k="category", n="number")
    assert choose(columns, **named) == TaskColumns(task, named, inferred=False)
    assert choose(columns, auto=False, **named).task is task


@pytest.mark.parametrize(
    ("named", "columns"),
    [
        ({"label": "stars"}, {"text": "review", "label": "stars"}),
        ({"target": "stars"}, {"text": "review", "target": "stars"}),
    ],
)
def test_what_is_predicted_is_enough_when_there_is_one_text(named: dict[str, str], columns: dict[str, str]) -> None:
    chosen = choose(table("review", stars="stars", id="id"), **named)
    assert (chosen.columns, chosen.inferred) == (columns, True)


def test_a_task_and_a_text_find_what_is_predicted() -> None:
    columns = table("review", "reply", stars="stars", id="id")
    assert choose(columns, "classification", text="review").columns == {"text": "review", "label": "stars"}
    assert choose(columns, "regression", text="reply").columns == {"text": "reply", "target": "stars"}


@pytest.mark.parametrize(
    ("task", "columns", "roles"),
    [
        ("text", {"text": "text", "label": "codes"}, {"text": "text"}),
        ("text", {"tale": "text", "genre": "category"}, {"text": "tale"}),
        ("text", {"dump": "category", "place": "category", "id": "id"}, {"text": "place"}),
        (
            "prompt_completion",
            {"instruction": "text", "output": "text"},
            {"prompt": "instruction", "completion": "output"},
        ),
        ("chat", {"talk": "json", "text": "text"}, {"messages": "talk"}),
        ("classification", {"text": "text", "flavour": "category"}, {"text": "text", "label": "flavour"}),
        ("classification", {"text": "text", "label": "zero"}, {"text": "text", "label": "label"}),
        ("classification", {"text": "text", "score": "binary"}, {"text": "text", "label": "score"}),
        ("regression", {"text": "text", "n_chars": "count"}, {"text": "text", "target": "n_chars"}),
        ("regression", {"text": "text", "label": "codes"}, {"text": "text", "target": "label"}),
        (
            "classification",
            {"text": "text", "topic": "category", "score": "binary"},
            {"text": "text", "label": "topic"},
        ),
    ],
)
def test_a_named_task_finds_its_columns(task: str, columns: dict[str, str], roles: dict[str, str]) -> None:
    assert choose(table(**columns), task) == TaskColumns(Task(task), roles, inferred=True)


def test_a_task_without_columns_says_what_it_needs() -> None:
    error = refused(table("text", "other"), "chat")
    assert error.message == "no columns for the task chat, which needs messages"
    assert error.hint == "name them under data, with columns: {messages: ...}; columns: text (text), other (text)"


def test_an_id_or_a_constant_can_be_named() -> None:
    columns = table("text", author_id="stars", always="constant")
    assert choose(columns, text="text", label="author_id").task is Task.CLASSIFICATION
    assert choose(columns, prompt="always", completion="text").names == ("always", "text")


@pytest.mark.parametrize("name", ["system", "System_Prompt"])
@pytest.mark.parametrize("pair", [("question", "response"), ("instruction", "output")])
def test_a_system_prompt_that_is_not_read_is_noted(name: str, pair: tuple[str, str]) -> None:
    (note,) = choose(table(name, *pair)).notes
    assert note.startswith(f"column {name!r} is not read: no role of this release takes a system prompt")


def test_nothing_is_noted_of_an_empty_system_prompt_of_plain_text_or_of_named_columns() -> None:
    assert choose(table("question", "response", system="blank")).notes == ()
    assert choose(table("text", system="preamble")).notes == ()
    assert choose(table("system", "question", "response"), prompt="question", completion="response").notes == ()


# -- for people -----------------------------------------------------------------------------------------------------


def test_a_choice_reads_as_the_yaml_would_say_it() -> None:
    assert str(TaskColumns(Task.TEXT, {"text": "story"})) == "text: text 'story'"
    assert str(choose(table("question", "answer"))) == "prompt_completion: prompt 'question' + completion 'answer'"


@pytest.mark.parametrize(
    ("name", "written"),
    [("text", "text"), ("my text", '"my text"'), ("no", '"no"'), ("1", '"1"'), ("größe", '"größe"'), ("a.b", "a.b")],
)
def test_a_name_is_quoted_where_yaml_needs_it(name: str, written: str) -> None:
    assert yaml_name(name) == written
