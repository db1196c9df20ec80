"""Chats from files to text: what a column of structs adds to a row does not get into what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.config.data import Data
from entrenar_core.data.conversations import chat_row
from entrenar_core.data.opening import open_sources
from entrenar_core.data.row_encoders import ChatRowEncoder, EncodedRow
from entrenar_core.data.tasks import Task
from tests.tokenizer.chat_families import CHATML

TEMPLATE = """
{{- tools | tojson }}
{%- for message in messages %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}
    {{- "<|im_end|>" }}
{%- endfor %}"""


def row(name: str, parameters: Any, arguments: Any) -> dict[str, Any]:
    """A row whose tool has these parameters, and is called with these arguments."""
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return {"messages": messages, "tools": [tool]}


def text_of(row: dict[str, Any], arguments: str) -> str:
    return f"{json.dumps(row['tools'])}Hi<|im_end|>{arguments}<|im_end|>"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def trained_texts(path: Path) -> list[str]:
    section = Data(train=str(path))
    (opened,) = open_sources(section, section.train)
    assert opened.task is Task.CHAT
    chat = CHATML.encoder(TEMPLATE)
    encoder = ChatRowEncoder(chat, chat_row)
    encoded = [one for rows, locate in opened.read() for one in encoder.encode(rows, locate)]
    return [chat.tokenizer.decode(one.tokens, skip_special=False) for one in encoded if isinstance(one, EncodedRow)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_row_gets_no_keys_of_other_rows(tmp_path: Path, name: str) -> None:
    weather = row("weather", {"properties": {"city": {"type": "string"}}, "required": ["city"]}, {"city": "Paris"})
    add = row("add", {"properties": {"a": {"type": "number"}, "b": {"type": "number"}}}, {"a": 1, "b": 2})
    path = write(tmp_path / name, [weather, add])
    assert trained_texts(path) == [text_of(weather, '{"city": "Paris"}'), text_of(add, '{"a": 1, "b": 2}')]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_null_that_is_written_as_json_text_is_trained(tmp_path: Path, name: str) -> None:
    plain = row("weather", {"default": None}, '{"city": null}')
    path = write(tmp_path / name, [plain | {"tools": json.dumps(plain["tools"])}])
    assert trained_texts(path) == [text_of(plain, '{"city": null}')]
