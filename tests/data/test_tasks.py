"""What data are for and which columns are read: named ones, well-known names, types; and what is said otherwise."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest

from entrenar_core.config.roles import TASK_ROLES
from entrenar_core.data.column_types import ColumnType, infer_column
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
from entrenar_core.data.tasks import Task, TaskColumns, TaskRequest, choose_task
from entrenar_core.errors import DataError

ROWS = 60
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def cycle(*values: object) -> list[object]:
    return [values[index % len(values)] for index in range(ROWS)]


VALUES: dict[str, list[object]] = {
    "text": [f"sentence number {index} of a story about a fox" for index in range(ROWS)],
    "short": [f"word {index}" for index in range(ROWS)],
    "number": [0.25 * (index * index % 31) for index in range(ROWS)],
    "count": [3 + 17 * (index * index % 31) for index in range(ROWS)],
    "digits": [str(3 + 17 * (index * index % 31)) for index in range(ROWS)],
    "category": cycle("red", "green", "blue"),
    "many codes": cycle(*range(1, 28)),
    "codes": cycle(0, 1, 2, 3),
    "stars": cycle(1, 2, 3, 4, 5),
    "binary": cycle("yes", "no"),
    "flag": cycle(True, False),
    "id": list(range(ROWS)),
    "url": [f"https://example.org/{index}" for index in range(ROWS)],
    "constant": ["en"] * ROWS,
    "zero": [0] * ROWS,
    "date": cycle("2024-02-29", "2024-03-01"),
    "messages": [TURNS] * ROWS,
    "json": ['[{"role": "user", "content": "Hi"}]'] * ROWS,
    "sharegpt": [SHAREGPT] * ROWS,
    "tags": [["a", "b"]] * ROWS,
    "vector": [[0.5, 1.5]] * ROWS,
    "speech": [[{"speaker": "A", "text": "Hi"}]] * ROWS,
    "blank": [""] * ROWS,
    "null": [None] * ROWS,
}
"""Columns by what they hold."""


def table(*names: str, **kinds: str) -> dict[str, ColumnType]:
    """Columns of text, and columns of the kinds of VALUES."""
    held = dict.fromkeys(names, "text") | kinds
    return {name: infer_column(name, pa.array(VALUES[kind])) for name, kind in held.items()}


def choose(columns: dict[str, ColumnType], task: str | None = None, *, auto: bool = True, **named: str) -> TaskColumns:
    return choose_task(columns, TaskRequest(task, named, auto), where="train.parquet")


def refused(columns: dict[str, ColumnType], task: str | None = None, *, auto: bool = True, **named: str) -> DataError:
    with pytest.raises(DataError) as caught:
        choose(columns, task, auto=auto, **named)
    assert caught.value.where == "train.parquet"
    return caught.value


# -- the table ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    comment: str
    columns: dict[str, str]
    task: str
    roles: dict[str, str]


CASES = [
    Case("plain text", {"text": "text"}, "text", {"text": "text"}),
    Case("a corpus", {"text": "text", "url": "url", "dump": "category"}, "text", {"text": "text"}),
    Case("where a text comes from is no label", {"text": "text", "source": "category"}, "text", {"text": "text"}),
    Case("nor is its language", {"text": "text", "lang": "category"}, "text", {"text": "text"}),
    Case("nor a category of another name", {"text": "text", "flavour": "category"}, "text", {"text": "text"}),
    Case("nor a number of another name", {"text": "text", "n_chars": "count"}, "text", {"text": "text"}),
    Case("another name for text", {"Content": "text", "id": "id"}, "text", {"text": "Content"}),
    Case("the only text", {"tale": "text", "id": "id", "when": "date"}, "text", {"text": "tale"}),
    Case("with an empty column", {"tale": "text", "note": "null"}, "text", {"text": "tale"}),
    Case("with a constant", {"tale": "text", "edition": "constant"}, "text", {"text": "tale"}),
    Case("with metadata", {"tale": "text", "language": "category", "year": "count"}, "text", {"text": "tale"}),
    Case("with a title", {"tale": "text", "title": "short"}, "text", {"text": "tale"}),
    Case("short texts that repeat", {"text": "category"}, "text", {"text": "text"}),
    Case(
        "a pair",
        {"prompt": "text", "completion": "text"},
        "prompt_completion",
        {"prompt": "prompt", "completion": "completion"},
    ),
    Case(
        "a question with a word for an answer",
        {"question": "text", "answer": "category"},
        "prompt_completion",
        {"prompt": "question", "completion": "answer"},
    ),
    Case(
        "with digits for an answer",
        {"question": "text", "answer": "digits"},
        "prompt_completion",
        {"prompt": "question", "completion": "answer"},
    ),
    Case(
        "a summary",
        {"article": "text", "summary": "text", "id": "id"},
        "prompt_completion",
        {"prompt": "article", "completion": "summary"},
    ),
    Case(
        "a summary of a text",
        {"text": "text", "summary": "text"},
        "prompt_completion",
        {"prompt": "text", "completion": "summary"},
    ),
    Case(
        "a summary of a dialogue in plain text",
        {"dialogue": "text", "summary": "text"},
        "prompt_completion",
        {"prompt": "dialogue", "completion": "summary"},
    ),
    Case(
        "a rated pair is a pair",
        {"prompt": "text", "response": "text", "rating": "stars"},
        "prompt_completion",
        {"prompt": "prompt", "completion": "response"},
    ),
    Case(
        "Alpaca",
        {"instruction": "text", "input": "text", "output": "text"},
        "instruction",
        {"instruction": "instruction", "input": "input", "output": "output"},
    ),
    Case(
        "Alpaca without inputs",
        {"instruction": "text", "input": "blank", "output": "text"},
        "instruction",
        {"instruction": "instruction", "input": "input", "output": "output"},
    ),
    Case(
        "Alpaca with a column of nothing",
        {"instruction": "text", "input": "null", "output": "text"},
        "instruction",
        {"instruction": "instruction", "output": "output"},
    ),
    Case(
        "Alpaca as Stanford published it",
        {"instruction": "text", "input": "text", "output": "text", "text": "text"},
        "instruction",
        {"instruction": "instruction", "input": "input", "output": "output"},
    ),
    Case(
        "an instruction and an output",
        {"instruction": "text", "output": "text"},
        "instruction",
        {"instruction": "instruction", "output": "output"},
    ),
    Case(
        "Dolly",
        {"instruction": "text", "context": "text", "response": "text", "category": "category"},
        "instruction",
        {"instruction": "instruction", "input": "context", "output": "response"},
    ),
    Case(
        "a question about a text",
        {"question": "text", "context": "text", "answer": "text", "id": "id"},
        "instruction",
        {"instruction": "question", "input": "context", "output": "answer"},
    ),
    Case("a chat", {"messages": "messages"}, "chat", {"messages": "messages"}),
    Case("ShareGPT", {"id": "url", "conversations": "sharegpt"}, "chat", {"messages": "conversations"}),
    Case("a chat as JSON", {"Conversation": "json"}, "chat", {"messages": "Conversation"}),
    Case("a chat of any name", {"talk": "messages", "topic": "category"}, "chat", {"messages": "talk"}),
    Case(
        "a chat with tools",
        {"messages": "messages", "tools": "json"},
        "chat",
        {"messages": "messages", "tools": "tools"},
    ),
    Case("a chat with its prompt", {"prompt": "text", "messages": "messages"}, "chat", {"messages": "messages"}),
    Case("a label", {"text": "text", "label": "codes"}, "classification", {"text": "text", "label": "label"}),
    Case(
        "labels in words", {"text": "text", "Label": "category"}, "classification", {"text": "text", "label": "Label"}
    ),
    Case("true or false", {"text": "text", "label": "flag"}, "classification", {"text": "text", "label": "label"}),
    Case("many codes", {"text": "text", "label": "many codes"}, "classification", {"text": "text", "label": "label"}),
    Case(
        "a label twice",
        {"text": "text", "label": "codes", "label_text": "stars"},
        "tie",
        {},
    ),
    Case(
        "a label and its name",
        {"text": "text", "label": "stars", "label_text": "stars"},
        "classification",
        {"text": "text", "label": "label"},
    ),
    Case(
        "sentiment of a review",
        {"review": "text", "sentiment": "category", "id": "id"},
        "classification",
        {"text": "review", "label": "sentiment"},
    ),
    Case(
        "a label beside a title",
        {"title": "short", "text": "text", "category": "category"},
        "classification",
        {"text": "text", "label": "category"},
    ),
    Case(
        "a target of words", {"text": "text", "target": "binary"}, "classification", {"text": "text", "label": "target"}
    ),
    Case(
        "short sentences that repeat",
        {"sentence": "category", "label": "codes"},
        "classification",
        {"text": "sentence", "label": "label"},
    ),
    Case(
        "the only category beside the only text",
        {"tale": "text", "genre": "category", "id": "id"},
        "classification",
        {"text": "tale", "label": "genre"},
    ),
    Case("a score", {"text": "text", "score": "number"}, "regression", {"text": "text", "target": "score"}),
    Case("stars are numbers", {"text": "text", "stars": "stars"}, "regression", {"text": "text", "target": "stars"}),
    Case(
        "a rating in digits", {"body": "text", "rating": "digits"}, "regression", {"text": "body", "target": "rating"}
    ),
    Case("a target number", {"text": "text", "target": "count"}, "regression", {"text": "text", "target": "target"}),
    Case(
        "a label with fractions", {"text": "text", "label": "number"}, "regression", {"text": "text", "target": "label"}
    ),
    Case(
        "the only number beside the only text",
        {"tale": "text", "readers": "count"},
        "regression",
        {"text": "tale", "target": "readers"},
    ),
]


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


# -- ties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            {"text": "text", "prompt": "text", "completion": "text"},
            ["columns: {text: text}", "columns: {prompt: prompt, completion: completion}"],
        ),
        ({"text": "text", "Text": "text"}, ["columns: {text: Text}", "columns: {text: text}"]),
        ({"text": "text", "content": "text"}, ["columns: {text: text}", "columns: {text: content}"]),
        (
            {"text": "text", "messages": "messages"},
            ["columns: {text: text}", "columns: {messages: messages}"],
        ),
        (
            {"problem": "text", "solution": "text", "messages": "messages"},
            ["columns: {prompt: problem, completion: solution}", "columns: {messages: messages}"],
        ),
        (
            {"text": "text", "label": "codes", "sentiment": "category"},
            ["columns: {text: text, label: label}", "columns: {text: text, label: sentiment}"],
        ),
        (
            {"text": "text", "label": "codes", "score": "number"},
            ["columns: {text: text, label: label}", "columns: {text: text, target: score}"],
        ),
        (
            {"premise": "text", "hypothesis": "text", "label": "codes"},
            ["columns: {text: premise, label: label}", "columns: {text: hypothesis, label: label}"],
        ),
        (
            {"question": "text", "answer": "text", "label": "flag"},
            ["columns: {prompt: question, completion: answer}", "columns: {text: question, label: label}"],
        ),
        (
            {"alpha": "text", "beta": "text", "id": "id"},
            ["columns: {text: alpha}", "columns: {text: beta}", "columns: {prompt: alpha, completion: beta}"],
        ),
        (
            {"prompt": "text", "chosen": "text", "rejected": "text"},
            ["columns: {prompt: prompt, completion: chosen}", "columns: {prompt: prompt, completion: rejected}"],
        ),
        (
            {"tale": "text", "genre": "category", "readers": "count"},
            ["columns: {text: tale}", "columns: {text: tale, label: genre}", "columns: {text: tale, target: readers}"],
        ),
        (
            {"chosen": "messages", "rejected": "messages"},
            ["columns: {messages: chosen}", "columns: {messages: rejected}"],
        ),
        (
            {"text": "text", "score": "number", "url": "url", "dump": "category"},
            ["columns: {text: text}", "columns: {text: text, target: score}"],
        ),
        ({"text": "text", "label": "codes", "label_text": "stars"}, ["columns: {text: text, label: label_text}"]),
        (
            {"my story": "text", "yes": "text"},
            ['columns: {text: "my story"}', 'columns: {text: "yes"}'],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_tie_is_an_error_with_the_line_of_yaml_for_each_choice(columns: dict[str, str], lines: list[str]) -> None:
    error = refused(table(**columns))
    assert "several choices of columns fit" in error.message
    assert set(lines) <= {line.strip() for line in str(error.hint).splitlines()}


def test_the_message_of_a_tie() -> None:
    assert str(refused(table("text", "question", "answer"))) == (
        "train.parquet: several choices of columns fit: text: text 'text'; "
        "prompt_completion: prompt 'question' + completion 'answer'\n"
        "  hint: say which one, with one of these lines under data:\n"
        "    columns: {text: text}\n"
        "    columns: {prompt: question, completion: answer}"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.comment)
def test_each_line_of_a_tie_settles_it(case: Case) -> None:
    """Whatever is chosen, naming it in the YAML gives the same."""
    columns = table(**case.columns)
    try:
        chosen = choose(columns)
    except DataError:
        return
    named = choose(columns, **chosen.columns)
    assert (named.task, named.columns, named.inferred) == (chosen.task, chosen.columns, False)


def test_only_so_many_choices_are_shown() -> None:
    error = refused(table(*(f"text{index}" for index in range(30))))
    assert "and 22 more" in error.message
    assert str(error.hint).count("\n") == 8


# -- wrong types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (
            {"question": "text", "answer": "count"},
            "column 'answer' is number, not text (whole numbers from 3 to 479 in 60 rows: number)",
            "store this one as strings",
        ),
        (
            {"messages": "text"},
            "column 'messages' is text, not messages (9 words on average in 60 rows: text)",
            "columns: {text: messages}",
        ),
        (
            {"conversations": "speech", "text2": "text"},
            "column 'conversations' is struct, not messages (lists of {speaker, text} in 60 rows: struct)",
            "a list of {role, content} or of {from, value}",
        ),
        (
            {"text": "text", "labels": "tags"},
            "column 'labels' is struct, not a label (lists of strings in 60 rows: struct)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "label": "text2"},
            "column 'label' is text, not a label (9 words on average in 60 rows: text)",
            "a label has few values that repeat",
        ),
        (
            {"text": "text", "label": "null"},
            "column 'label' is empty, not a label (all values are null in 60 rows: empty)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "label": "zero"},
            "column 'label' never changes, so there is nothing to predict (always 0 in 60 rows: number)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "target": "id"},
            "column 'target' is an id, nothing to predict (a sequence of unique whole numbers from 0 to 59 in 60 rows",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "score": "category"},
            "column 'score' is category, not a number (3 distinct values in 60 rows: category)",
            "task: classification and columns: {label: score}",
        ),
        (
            {"text": "text", "class": "number"},
            "column 'class' is number, not a label (numbers from 0 to 7 in 60 rows: number)",
            "task: regression and columns: {target: class}",
        ),
        (
            {"text": "messages"},
            "column 'text' is messages, not text (lists of {role, content} in 60 rows: messages)",
            "task: chat and columns: {messages: text}",
        ),
        (
            {"instruction": "text", "input": "count", "output": "text"},
            "column 'input' is number, not text (whole numbers from 3 to 479 in 60 rows: number)",
            "store this one as strings",
        ),
        (
            {"messages": "messages", "tools": "count"},
            "column 'tools' is number, not a list of tools (whole numbers from 3 to 479 in 60 rows: number)",
            "a list of JSON schemas",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_well_known_column_of_the_wrong_type_is_an_error(columns: dict[str, str], message: str, hint: str) -> None:
    kinds = {name: kind.removesuffix("2") for name, kind in columns.items()}
    error = refused(table(**kinds))
    assert message in error.message
    assert hint in str(error.hint)


def test_a_usable_choice_wins_over_one_of_another_type() -> None:
    assert choose(table("text", input="count", output="count")).columns == {"text": "text"}


# -- nothing fits ---------------------------------------------------------------------------------------------------


def test_no_text_is_an_error_that_shows_the_kinds() -> None:
    error = refused(table(id="id", price="number", image="vector"))
    assert error.message == "there is no text column; columns: id (number), price (number), image (vector)"


def test_short_strings_are_trained_on_only_when_they_are_named() -> None:
    columns = table(country="category", id="id")
    assert "columns: {text: country}" in str(refused(columns).hint)
    assert choose(columns, text="country").columns == {"text": "country"}


def test_a_wide_table_is_not_listed_whole() -> None:
    error = refused(table(*(f"column{index}" for index in range(500))), text="text")
    assert "column19 (text) and 480 more" in str(error.hint)


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


# -- mistakes in what is named --------------------------------------------------------------------------------------


def test_a_missing_column_lists_what_there_is_and_the_nearest_name() -> None:
    error = refused(table("question", "answer", id="id"), prompt="quesiton", completion="answer")
    assert error.message == "data.prompt: there is no column 'quesiton'"
    assert error.hint == "did you mean 'question'? columns: question (text), answer (text), id (number)"


def test_a_column_that_differs_only_in_case_is_suggested() -> None:
    assert "did you mean 'TEXT'" in str(refused(table("TEXT"), text="text").hint)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"text": "k"}, "data.text: column 'k' is category, not text (4 distinct whole numbers from 0 to 3 in 60 rows"),
        ({"text": "m"}, "data.text: column 'm' is messages, not text (lists of {role, content} in 60 rows"),
        ({"messages": "a"}, "data.columns.messages: column 'a' is text, not messages (9 words on average in 60 rows"),
        ({"text": "a", "label": "b"}, "data.columns.label: column 'b' is text, not a label (9 words"),
        ({"text": "a", "label": "n"}, "data.columns.label: column 'n' is number, not a label (numbers from"),
        ({"text": "a", "target": "b"}, "data.columns.target: column 'b' is text, not a number (9 words"),
        ({"text": "a", "label": "v"}, "data.columns.label: column 'v' is vector, not a label (lists of numbers"),
        ({"text": "e"}, "data.text: column 'e' is empty, not text (all values are null in 60 rows: empty)"),
        ({"label": "nope"}, "data.columns.label: there is no column 'nope'"),
    ],
)
def test_a_named_column_of_the_wrong_kind_says_its_kind_and_why(named: dict[str, str], message: str) -> None:
    columns = table("a", "b", k="codes", m="messages", n="number", v="vector", e="null")
    assert message in refused(columns, **named).message


@pytest.mark.parametrize(("given", "absent"), [("prompt", "completion"), ("completion", "prompt")])
def test_prompt_and_completion_come_together(given: str, absent: str) -> None:
    error = refused(table("question", "answer"), **{given: "question"})
    assert error.message == f"data.{given} is set, but data.{absent} is not"


def test_instruction_needs_an_output() -> None:
    error = refused(table("question", "answer"), instruction="question")
    assert error.message == "data.columns.instruction is set, but data.columns.output is not"


def test_text_and_prompt_exclude_each_other() -> None:
    error = refused(table("a", "b", "c"), text="a", prompt="b", completion="c")
    assert "set either one or the other" in error.message


def test_one_column_cannot_have_two_roles() -> None:
    error = refused(table("a", "b"), prompt="a", completion="a")
    assert error.message == "data.prompt and data.completion are the same column 'a'"


def test_a_role_of_another_task_says_where_it_belongs() -> None:
    error = refused(table("a"), "chat", label="a")
    assert error.message == "data.columns.label is not a column of the task chat, which has messages and tools"
    assert error.hint == "it belongs to classification"


def test_an_unknown_role_lists_the_roles() -> None:
    error = refused(table("a"), response="a")
    assert error.message == "data.columns.response is not a role that a column can have"
    assert "the roles are text, prompt, completion" in str(error.hint)


def test_an_unknown_task_is_spelled_out() -> None:
    error = refused(table("text"), "clasification")
    assert error.message == "data.task: there is no task 'clasification'"
    assert "did you mean classification?" in str(error.hint)


# -- without inference ----------------------------------------------------------------------------------------------


def test_without_inference_columns_must_be_named() -> None:
    error = refused(table("text"), auto=False)
    assert error.message == "no column is named and inference is off"
    assert error.hint == "set data.columns: {text: ...}, or data.auto_infer_types: true; columns: text (text)"


def test_without_inference_a_task_alone_is_not_enough() -> None:
    error = refused(table("text", label="codes"), "classification", auto=False)
    assert "data.columns: {text: ..., label: ...}" in str(error.hint)


def test_without_inference_half_of_the_columns_are_not_enough() -> None:
    error = refused(table("text", label="codes"), auto=False, label="label")
    assert error.message == "data.columns.label is set, but data.text is not, and inference is off"


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
