"""Questions with choices out of the shapes that data sets have, and what is said of those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.data.choices import ChoiceData, ChoiceQuestion, answer_index, choice_columns
from entrenar_core.data.column_types import infer_types
from entrenar_core.data.source import DataSource
from entrenar_core.errors import DataError

COLOURS = ["red", "green", "blue"]


def questions(
    folder: Path, columns: dict[str, list[Any]], limit: int | None = None, **named: str
) -> list[ChoiceQuestion]:
    path = folder / "test.parquet"
    pq.write_table(pa.table(columns), path)
    types = infer_types(DataSource.open(str(path)).sample(100))
    return list(ChoiceData.open(str(path), types, named).questions(limit))


@pytest.mark.parametrize(
    "columns",
    [
        {"question": ["Which?"], "choices": [COLOURS], "answer": [2]},
        {"question": ["Which?"], "options": [COLOURS], "answer": ["blue"]},
        {"ctx": ["Which?"], "endings": [COLOURS], "label": ["2"]},
        {"question": ["Which?"], "choices": [{"text": COLOURS, "label": ["A", "B", "C"]}], "answerKey": ["C"]},
        {"question": ["Which?"], "choices": [{"text": COLOURS, "label": ["1", "2", "3"]}], "answerKey": ["3"]},
        {"question": ["Which?"], "choices": [[{"text": t, "label": t[0]} for t in COLOURS]], "answer": ["b"]},
    ],
    ids=["MMLU", "text", "HellaSwag", "ARC", "ARC with digits", "list of pairs"],
)
def test_every_known_shape_is_the_same_question(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    (found,) = questions(tmp_path, columns)
    assert (found.question, found.choices, found.answer) == ("Which?", tuple(COLOURS), 2)


def test_labels_are_the_datas_own_or_letters(tmp_path: Path) -> None:
    (plain,) = questions(tmp_path, {"question": ["Which?"], "choices": [COLOURS], "answer": [0]})
    assert plain.labels == ("A", "B", "C")
    choices = {"text": COLOURS, "label": ["1", "2", "3"]}
    (labelled,) = questions(tmp_path, {"question": ["Which?"], "choices": [choices], "answer": ["1"]})
    assert (labelled.labels, labelled.answer) == (("1", "2", "3"), 0)


def test_choices_may_have_a_column_each(tmp_path: Path) -> None:
    columns = {"q": ["Which one?"], "a": ["red"], "b": ["blue"], "right": ["B"]}
    (found,) = questions(tmp_path, columns, question="q", choices="a, b", answer="right")
    assert (found.choices, found.answer) == (("red", "blue"), 1)


def test_rows_without_question_choices_or_answer_are_counted_and_the_limit_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    table = {"question": ["a?", None, "c?", "d?"], "choices": [COLOURS, COLOURS, None, COLOURS], "answer": [0, 1, 2, 1]}
    pq.write_table(pa.table(table), path)
    data = ChoiceData.open(str(path), infer_types(pa.table(table)), {})
    assert [one.question for one in data.questions()] == ["a?", "d?"]
    assert data.without_answer == 2
    assert len(questions(tmp_path, table, limit=1)) == 1


@pytest.mark.parametrize(
    ("answer", "index"),
    [(0, 0), (2, 2), (1.0, 1), ("1", 1), ("A", 0), ("c", 2), ("green", 1), (" green ", 1)],
)
def test_an_answer_is_an_index_a_letter_or_a_text(answer: object, index: int) -> None:
    assert answer_index(answer, COLOURS, (), "here") == index


def test_labels_and_texts_come_before_letters_and_indices() -> None:
    assert answer_index("1", ["one", "two"], ["1", "2"], "here") == 0
    assert answer_index(2, ["one", "two"], ["1", "2"], "here") == 1
    assert answer_index("1", ["3", "1"], (), "here") == 1
    assert answer_index(1, ["3", "1", "0"], (), "here") == 1
    assert answer_index("B", ["B", "A"], (), "here") == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (3, "the answer 3 is out of range: there are 3 choices"),
        ("D", "the answer 'D' is out of range"),
        (-1, "out of range"),
        ("purple", "the answer 'purple' is none of the choices"),
        (0.5, "none of the choices"),
    ],
)
def test_an_answer_that_is_no_choice_names_its_row(tmp_path: Path, answer: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        questions(tmp_path, {"question": ["Which?"], "choices": [COLOURS], "answer": [answer]})
    assert caught.value.where == f"{tmp_path}/test.parquet, row 1, column answer"


def test_hidden_answers_are_explained() -> None:
    with pytest.raises(DataError) as caught:
        answer_index(-1, COLOURS, (), "here")
    assert "test sets hide their answers" in str(caught.value)


@pytest.mark.parametrize("choices", [["only one"], [], ["a", None], {"label": ["A", "B"]}], ids=str)
def test_choices_that_are_none_name_their_row(tmp_path: Path, choices: object) -> None:
    table = {"question": ["fine?", "Which?"], "choices": [["a", "b"], choices], "answer": [0, 0]}
    if isinstance(choices, dict):
        table["choices"] = [{"text": ["a", "b"], "label": ["A", "B"]}, choices]
    with pytest.raises(DataError, match="choices") as caught:
        questions(tmp_path, table)
    assert caught.value.where == f"{tmp_path}/test.parquet, row 2, column choices"


@pytest.mark.parametrize("role", ["question", "choices", "answer"])
def test_a_role_without_a_column_is_named(tmp_path: Path, role: str) -> None:
    table = {"question": ["Which?"], "choices": [COLOURS], "answer": [0]}
    del table[role]
    with pytest.raises(DataError, match=f"no column for the {role} of multiple-choice questions") as caught:
        questions(tmp_path, {**table, "zzz": [1]})
    assert f"--columns {role}=COLUMN" in str(caught.value)


def test_a_pair_of_question_and_answer_is_no_choice() -> None:
    types = infer_types(pa.table({"question": ["How much?"] * 9, "answer": ["#### 3"] * 9}))
    assert "choices" not in choice_columns(types)
