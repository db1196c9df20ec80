"""Tables as real data sets have them, with their task and columns, for the tests of tasks."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pytest

from entrenar_core.data.column_types import ColumnType, infer_column
from entrenar_core.data.tasks import TaskColumns, TaskRequest, choose_task
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
    "preamble": ["You are a helpful assistant that answers briefly."] * ROWS,
    "zero": [0] * ROWS,
    "date": cycle("2024-02-29", "2024-03-01"),
    "messages": [TURNS] * ROWS,
    "json": ['[{"role": "user", "content": "Hi"}]'] * ROWS,
    "sharegpt": [SHAREGPT] * ROWS,
    "tags": [["a", "b"]] * ROWS,
    "vector": [[0.5, 1.5]] * ROWS,
    "speech": [[{"speaker": "A", "text": "Hi"}]] * ROWS,
    "turns": [{"turn_1": {"Human": "Hi", "MOSS": "Hello"}}] * ROWS,
    "in and out": [[{"input": "Hi", "output": "Hello"}]] * ROWS,
    "options": [{"label": ["A", "B"], "text": ["a fox", "a dog"]}] * ROWS,
    "letter": cycle("A", "B", "C", "D"),
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
    *(
        Case(
            f"a question about a text that is called {name}",
            {"question": "text", name: "text", "answer": "text"},
            "instruction",
            {"instruction": "question", "input": name, "output": "answer"},
        )
        for name in ("article", "passage", "support")
    ),
    Case(
        "multiple choice with an answer in full",
        {"question": "text", "options": "tags", "solution": "text", "correct": "letter"},
        "prompt_completion",
        {"prompt": "question", "completion": "solution"},
    ),
    Case(
        "a preamble that never changes is not read",
        {"preface": "preamble", "tale": "text", "genre": "category"},
        "classification",
        {"text": "tale", "label": "genre"},
    ),
    Case("a chat", {"messages": "messages"}, "chat", {"messages": "messages"}),
    Case(
        "a chat beside preferences",
        {"prompt": "text", "chosen": "messages", "rejected": "messages", "messages": "messages"},
        "chat",
        {"messages": "messages"},
    ),
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
