"""What a column holds, told from its type and values; the columns themselves are in column_table.py."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from entrenar_core.data import column_cutoffs as cutoffs
from entrenar_core.data.column_types import ColumnType, Kind, infer_column, infer_types
from tests.data.column_table import COLUMNS, SENTENCES, Example, column_of


@pytest.mark.parametrize("example", COLUMNS, ids=lambda example: f"{example.kind}-{example.name}-{example.comment}")
def test_the_kind_of_a_real_looking_column(example: Example) -> None:
    column = infer_column(example.name, column_of(example))
    assert (column.kind, column.is_id) == (example.kind, example.is_id), column.reason


def test_the_table_has_every_kind_and_at_least_sixty_columns() -> None:
    assert {example.kind for example in COLUMNS} == set(Kind)
    assert len(COLUMNS) >= 60


def infer(values: list[object], type_: pa.DataType | None = None, name: str = "column") -> ColumnType:
    return infer_column(name, pa.array(values, type_))


# -- reasons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["a", "b", "c"] * 300, "3 distinct values in 900 rows: category"),
        (["a", "b", None] * 300, "2 distinct values in 600 filled rows: category"),
        (["en"] * 9, "1 distinct value in 9 rows: category"),
        ([0, 1, 2] * 5, "3 distinct whole numbers from 0 to 2 in 15 rows: category"),
        ([0, 1] * 5, "only 0 and 1 in 10 rows: binary"),
        (["Yes", "no"] * 5, "only no and yes in 10 rows: binary"),
        ([True, False], "false and true in 2 rows: binary"),
        ([1.5, 2.25], "numbers from 1.5 to 2.25 in 2 rows: number"),
        ([10, 30, 20], "whole numbers from 10 to 30 in 3 rows: number"),
        ([7] * 4, "always 7 in 4 rows: number"),
        (["1.5", "2"], "numbers from 1.5 to 2 in 2 rows, stored as strings: number"),
        (list(range(1, 31)), "a sequence of unique whole numbers from 1 to 30 in 30 rows: an id"),
        (SENTENCES[:10], "14 words on average in 10 rows: text"),
        (["one two", "three"], "2 distinct values in 2 rows, 1.5 words on average: text"),
        (["2024-01-01"], "dates in 1 row, stored as strings: datetime"),
        ([[{"from": "human", "value": "Hi"}]], "lists of {from, value} in 1 row: messages"),
        (['[{"role": "user", "content": "Hi"}]'], "JSON lists of {role, content} in 1 row: messages"),
        ([[{"speaker": "A", "text": "Hi"}]], "lists of {speaker, text} in 1 row: struct"),
        ([None, None], "all values are null in 2 rows: empty"),
        ([], "there are no rows: empty"),
        (["", " "], "all values are blank or null in 2 rows: empty"),
    ],
)
def test_the_reason_is_a_sentence_with_the_numbers_behind_it(values: list[object], reason: str) -> None:
    assert infer(values).reason == reason


def test_a_word_among_numbers_is_named() -> None:
    column = infer([*(str(value) for value in range(0, 90, 3)), "unknown"])
    assert column.kind is Kind.TEXT
    assert "mostly numbers but also 'unknown'" in column.reason


def test_an_id_by_name_says_so() -> None:
    assert (
        infer([5, 5, 9], name="user_id").reason == "whole numbers from 5 to 9 in 3 rows: number, and an id by its name"
    )


# -- what else a column tells ---------------------------------------------------------------------------------------


def test_null_nan_and_blank_are_all_missing() -> None:
    assert (infer(["a", None, ""]).n_values, infer(["a", None, ""]).n_nulls) == (1, 2)
    assert infer([1.5, float("nan"), None]).n_nulls == 2


@pytest.mark.parametrize(
    ("values", "distinct"),
    [
        (["b", "a", "b", "a"], ("a", "b")),
        ([2, 0, 1, 2, 0, 1], ("0", "1", "2")),
        ([10, 9, 8, 7, 6, 5, 4, 3, 2, 1] * 2, tuple(str(number) for number in range(1, 11))),
        ([True, False], ("false", "true")),
        ([1.5, 2.5, 1.5], ()),
    ],
)
def test_categories_carry_their_values_in_order(values: list[object], distinct: tuple[str, ...]) -> None:
    assert infer(values).distinct == distinct


def test_only_so_many_values_are_carried() -> None:
    column = infer([f"name {index}" for index in range(400)] * 3)
    assert column.n_distinct == 400
    assert len(column.distinct) == cutoffs.DISTINCT_LISTED


def test_words_are_counted_whatever_is_between_them() -> None:
    assert infer(["one two", "three\tfour\nfive  six"]).mean_words == 3.0
    assert infer(["日本語"]).mean_words == 3.0
    assert infer(["naïve façade"]).mean_words == 2.0


def test_characters_are_counted_not_bytes() -> None:
    assert infer(["äöü", "日本語"]).mean_chars == 3.0


def test_a_slice_of_a_column_is_judged_by_its_own_values() -> None:
    column = pa.chunked_array([pa.array(["one two three", "a", "b", "a", "b"]).slice(1)])
    assert infer_column("x", column).mean_words == 1.0
    assert infer_column("x", column).distinct == ("a", "b")


def test_strings_can_be_read_as_text_whatever_they_stand_for() -> None:
    assert infer(["1", "2"]).is_text_like
    assert infer(["yes", "no"]).is_text_like
    assert not infer([1, 2]).is_text_like
    assert not infer(['[{"role": "user", "content": "Hi"}]']).is_text_like


def test_a_column_too_short_to_tell_can_be_a_label() -> None:
    assert infer(["happy", "sad", "angry"]).is_label_like
    assert infer([0, 1, 2]).is_label_like
    assert not infer([0.5, 1.5, 0.5]).is_label_like
    assert not infer(SENTENCES).is_label_like
    assert not infer(["2024-01-01"] * 9).is_label_like


def test_numbers_of_any_size_are_written_as_a_person_would() -> None:
    assert "from -9223372036854775808 to 9223372036854775807 " in infer([-(2**63), 2**63 - 1]).reason
    assert "from 1e+300 to inf " in infer([1e300, float("inf")]).reason


def test_more_codes_than_a_category_has_can_still_be_a_label() -> None:
    column = infer([index % 77 for index in range(770)])
    assert column.kind is Kind.NUMBER
    assert column.is_label_like


def test_one_value_is_a_constant() -> None:
    assert infer(["en", "en", None]).is_constant
    assert not infer(["en", "de"]).is_constant


def test_a_table_is_inferred_column_by_column_in_order() -> None:
    table = pa.table({"b": ["x y z u v w"], "a": [1.5]})
    assert [(column.name, column.kind) for column in infer_types(table).values()] == [
        ("b", Kind.TEXT),
        ("a", Kind.NUMBER),
    ]
    assert infer_types(table)["b"].arrow_type == "string"


# -- documentation --------------------------------------------------------------------------------------------------


def test_every_cut_off_is_documented_with_its_value(project_root: Path) -> None:
    page = (project_root / "docs" / "inference.md").read_text()
    for name, value in vars(cutoffs).items():
        if name.isupper():
            assert re.search(rf"`{name}` \| {value:g} \|", page), f"docs/inference.md lacks {name} = {value:g}"
