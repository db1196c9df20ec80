"""From the `data` section to sources with a task: what is inferred, what is overridden, what may be mixed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.config.data import Data
from entrenar_core.data.opening import OpenedSource, open_sources
from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError

CHAT = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"hello {n}"}]} for n in range(4)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(
        pa.table({"id": [1, 2], "question": ["who", "what"], "answer": ["the fox", "a dog"]}),
        tmp_path / "pairs.parquet",
    )
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    labels = ["good", "bad"] * 20
    texts = [f"this is the review number {n} of the fox" for n in range(40)]
    pq.write_table(pa.table({"review": texts, "label": labels}), tmp_path / "reviews.parquet")
    return tmp_path


def opened(folder: Path, train: Any, **data: Any) -> tuple[OpenedSource, ...]:
    section = Data.model_validate({"train": train, **data})
    return open_sources(section, section.train)


def test_task_and_columns_come_from_the_data(folder: Path) -> None:
    (one,) = opened(folder, str(folder / "pairs.parquet"))
    assert one.task is Task.PROMPT_COMPLETION
    assert one.columns.columns == {"prompt": "question", "completion": "answer"}
    assert one.unused == ["id"]


def test_named_columns_override(folder: Path) -> None:
    (one,) = opened(folder, str(folder / "pairs.parquet"), text="answer")
    assert (one.task, one.columns.columns) == (Task.TEXT, {"text": "answer"})
    assert not one.columns.inferred


def test_each_source_may_have_a_task_and_columns_of_its_own(folder: Path) -> None:
    pairs = {"path": str(folder / "pairs.parquet"), "task": "text", "columns": {"text": "question"}, "weight": 0.5}
    first, second = opened(folder, [pairs, str(folder / "chat.jsonl")])
    assert (first.task, first.weight, second.task, second.weight) == (Task.TEXT, 0.5, Task.CHAT, 1.0)


def test_language_tasks_mix_but_a_head_stands_alone(folder: Path) -> None:
    with pytest.raises(DataError, match="cannot go together") as error:
        opened(folder, [str(folder / "chat.jsonl"), str(folder / "reviews.parquet")])
    assert "chat" in error.value.message
    assert "classification" in error.value.message


def test_validation_data_have_the_task_of_the_training_data(folder: Path) -> None:
    texts = [f"this is the review number {n} of the fox" for n in range(3)]
    pq.write_table(pa.table({"review": texts, "label": ["good", "bad", "good"]}), folder / "few.parquet")
    section = Data.model_validate({"train": str(folder / "reviews.parquet"), "val": str(folder / "few.parquet")})
    train = open_sources(section, section.train)
    (val,) = open_sources(section, section.val or (), like=train)
    assert (val.task, val.columns.columns) == (Task.CLASSIFICATION, {"text": "review", "label": "label"})


def test_validation_data_of_another_form_are_read_in_their_own_way(folder: Path) -> None:
    section = Data.model_validate({"train": str(folder / "pairs.parquet"), "val": str(folder / "chat.jsonl")})
    (val,) = open_sources(section, section.val or (), like=open_sources(section, section.train))
    assert val.task is Task.CHAT


def test_validation_data_without_the_label_are_refused(folder: Path) -> None:
    section = Data.model_validate({"train": str(folder / "reviews.parquet"), "val": str(folder / "pairs.parquet")})
    with pytest.raises(DataError, match="cannot go together"):
        open_sources(section, section.val or (), like=open_sources(section, section.train))


def test_rows_come_by_role_and_know_their_place(folder: Path) -> None:
    (one,) = opened(folder, str(folder / "pairs.parquet"))
    ((rows, locate),) = one.read()
    assert rows == {"prompt": ["who", "what"], "completion": ["the fox", "a dog"]}
    assert locate(1).endswith("pairs.parquet, row 2")


def test_the_values_of_one_role_can_be_read_alone(folder: Path) -> None:
    (one,) = opened(folder, str(folder / "reviews.parquet"))
    assert list(one.values("label")) == ["good", "bad"] * 20


@pytest.mark.parametrize(("role", "task"), [("label", "classification"), ("target", "regression")])
def test_labels_are_those_of_the_rows_that_are_used_with_their_place(folder: Path, role: str, task: str) -> None:
    texts = ["one fox", None, "two foxes", " ", "a dog", "the dogs"]
    stars = [1.0, 2.0, 3.0, 4.0, None, math.nan]
    pq.write_table(pa.table({"review": texts, "stars": stars}), folder / "stars.parquet")
    (one,) = opened(folder, str(folder / "stars.parquet"), task=task, columns={"text": "review", role: "stars"})
    found = [(value, where()) for value, where in one.labels()]
    file = folder / "stars.parquet"
    assert found == [(1.0, f"{file}, row 1, column stars"), (3.0, f"{file}, row 3, column stars")]


def not_utf8(*texts: bytes) -> pa.StringArray:
    """Strings as a careless writer leaves them."""
    data = pa.array(texts, pa.binary())
    return pa.StringArray.from_buffers(len(texts), data.buffers()[1], data.buffers()[2])


def test_a_column_that_is_not_utf8_is_an_error_only_where_it_is_used(tmp_path: Path) -> None:
    table = pa.table({"text": ["the fox says hello", "a dog too"], "note": not_utf8(b"fine", b"\xff\xfe")})
    pq.write_table(table, tmp_path / "a.parquet")
    (one,) = opened(tmp_path, str(tmp_path / "a.parquet"))
    assert (one.task, one.unused) == (Task.TEXT, ["note"])
    with pytest.raises(DataError, match="the text is not UTF-8") as raised:
        opened(tmp_path, str(tmp_path / "a.parquet"), text="note")
    assert str(raised.value.where).endswith("a.parquet, row 2, column note")


def test_a_used_column_that_a_later_file_lacks_is_found_before_anything_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["the fox says hello"] * 3}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"story": ["a dog says hello"] * 3}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="this file has no column 'text'") as raised:
        opened(tmp_path, str(tmp_path / "*.parquet"))
    assert str(raised.value.where).endswith("b.parquet")


def test_an_optional_column_may_be_missing_in_a_file(tmp_path: Path) -> None:
    rows = {"instruction": ["name it", "say it"], "output": ["the fox", "a dog"]}
    pq.write_table(pa.table(rows | {"input": ["it is red", ""]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    (one,) = opened(tmp_path, str(tmp_path / "*.parquet"))
    assert [row for rows, _ in one.read() for row in rows["input"]] == ["it is red", "", None, None]
