"""Lists of objects in JSON whose keys have values of several types: they are kept as JSON text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from entrenar_core.data.column_types import infer_types
from entrenar_core.data.column_verdict import Kind
from entrenar_core.data.conversations import chat_row
from entrenar_core.data.formats import json_blocks
from entrenar_core.data.source import DataSource
from entrenar_core.errors import DataError
from entrenar_core.tokenizer.conversation import Conversation

PART = {"type": "text", "text": "Größe 😀"}
TEXT_CONTENT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
PARTS_CONTENT = {"messages": [{"role": "user", "content": [PART]}, {"role": "assistant", "content": "Hello"}]}
ROWS: list[dict[str, Any]] = [{"id": 1, **TEXT_CONTENT}, {"id": 2, **PARTS_CONTENT}, {"id": 3, "messages": None}]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "a.jsonl") -> DataSource:
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows, indent=1)
    (folder / name).write_text(text, encoding="utf-8")
    return DataSource.open(str(folder / name))


def read(source: DataSource, *columns: str) -> list[dict[str, Any]]:
    return [row for batch in source.read(columns) for row in batch.to_pylist()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1,), (2, 1, 0)])
def test_content_may_be_text_in_some_messages_and_parts_in_others(
    name: str, order: tuple[int, ...], tmp_path: Path
) -> None:
    rows = [ROWS[index] for index in order]
    source = written(tmp_path, rows, name)
    assert source.schema.field("messages").type == pa.string()
    assert source.schema.field("id").type == pa.int64()
    cells = [row["messages"] for row in read(source, "messages")]
    assert [cell and json.loads(cell) for cell in cells] == [row["messages"] for row in rows]
    assert read(source, "id") == [{"id": row["id"]} for row in rows]
    assert infer_types(source.sample(10))["messages"].kind is Kind.MESSAGES


def test_such_a_cell_is_a_conversation(tmp_path: Path) -> None:
    talks = [chat_row(row, "row") for row in read(written(tmp_path, ROWS[:2]), "messages")]
    assert talks == [Conversation(tuple(row["messages"])) for row in ROWS[:2]]


@pytest.mark.parametrize("rows", [ROWS[:1], [PARTS_CONTENT["messages"][:1]]], ids=["text", "parts"])
def test_content_of_one_type_stays_a_list(rows: list[Any], tmp_path: Path) -> None:
    rows = [row if isinstance(row, dict) else {"messages": row} for row in rows]
    assert pa.types.is_list(written(tmp_path, rows).schema.field("messages").type)


def test_another_type_in_a_later_block_counts_for_the_blocks_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_blocks, "BLOCK_BYTES", 200)
    rows = [TEXT_CONTENT] * 9 + [PARTS_CONTENT] + [TEXT_CONTENT] * 9
    for name in ("a.jsonl", "a.json"):
        source = written(tmp_path, rows, name)
        assert [json.loads(row["messages"]) for row in read(source, "messages")] == [row["messages"] for row in rows]
    source = DataSource.open(str(tmp_path / "a.jsonl"))
    assert len(source.groups()) > 2
    (*_, row) = next(source.read_group(source.groups()[-1], ["messages"])).to_pylist()
    assert json.loads(row["messages"]) == TEXT_CONTENT["messages"]


def test_schemas_of_tools_may_differ_in_their_types(tmp_path: Path) -> None:
    tools = [[{"name": "f", "parameters": {"default": default}}] for default in (3, "x", None, {"a": [1]})]
    source = written(tmp_path, [{"tools": value, **TEXT_CONTENT} for value in tools])
    assert [json.loads(row["tools"]) for row in read(source, "tools")] == tools
    assert pa.types.is_list(source.schema.field("messages").type)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([1.5, 2], ["a"], r"line 2: x\[\] is a string \(\"a\"\), but a number in line 1"),
        ({"a": 1}, {"a": "b"}, r"line 2: x\.a is a string"),
        ([{"a": 1}], "text", "line 2: x is a string"),
        ([{"a": 1}], [3], r"line 2: x\[\] is a number"),
    ],
)
def test_other_values_of_two_types_are_still_a_mistake(one: Any, other: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path, [{"x": one}, {"x": other}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": "x"}', "line 3 is not JSON"),
        ('{"id": "three", "messages": []}', r"line 3: id is a string \(\"three\"\), but a number in line 1"),
        ('{"id": 3, "id": 4, "messages": []}', "line 3: the key 'id' stands there twice"),
        ('{"id": 3, "messages": [{"role": "user", "content": "\\ud800"}]}', "line 3"),
    ],
)
def test_a_mistake_beside_them_is_named_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, ROWS[:2]), line]))
    with pytest.raises(DataError, match=message):
        DataSource.open(str(tmp_path / "a.jsonl"))
