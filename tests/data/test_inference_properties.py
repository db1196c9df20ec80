"""Laws of inference: how a column is stored and in which order its rows come does not change what it is."""

from __future__ import annotations

import itertools
import random
import string
import time
from dataclasses import replace

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from entrenar_core.data.column_types import ColumnType, Kind, infer_column, infer_types
from entrenar_core.data.tasks import TaskRequest, choose_task
from entrenar_core.errors import DataError
from tests.data.column_table import COLUMNS, Example, column_of

pytestmark = pytest.mark.property

WORDS = st.sampled_from(
    ["yes", "no", "true", "0", "1", "2.5", "007", "2024-02-29", "red", "a b c d e f", "n/a", " ", "日本"]
)
STRINGS = st.lists(st.none() | WORDS | st.text(max_size=30), max_size=60).map(
    lambda values: pa.array(values, pa.string())
)
INTEGERS = st.lists(st.none() | st.integers(-3, 30), max_size=60).map(lambda values: pa.array(values, pa.int64()))
BIG_INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20).map(lambda values: pa.array(values, pa.int64()))
FLOATS = st.lists(st.none() | st.floats(width=32) | st.sampled_from([0.0, 1.0, 2.0]), max_size=60).map(
    lambda values: pa.array(values, pa.float64())
)
BOOLEANS = st.lists(st.none() | st.booleans(), max_size=20).map(lambda values: pa.array(values, pa.bool_()))
ROUND_IDS = st.integers(0, 80).map(lambda count: pa.array(range(count), pa.int64()))
REAL = st.sampled_from(COLUMNS).map(column_of)
ANY_COLUMN = STRINGS | INTEGERS | BIG_INTEGERS | FLOATS | BOOLEANS | ROUND_IDS | REAL


def answer(values: pa.Array | pa.ChunkedArray) -> ColumnType:
    """All that inference says of the values, but how they are stored and how many are missing."""
    return replace(infer_column("column", values), arrow_type="", n_nulls=0, reason="")


@given(ANY_COLUMN, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_the_answer(values: pa.Array, draw: random.Random) -> None:
    order = list(range(len(values)))
    draw.shuffle(order)
    shuffled = pa.chunked_array([values[index : index + 1] for index in order], values.type)
    assert answer(shuffled) == answer(values)
    assert infer_column("column", shuffled).reason == infer_column("column", values).reason


@given(ANY_COLUMN, st.integers(1, 100), st.booleans())
def test_extra_nulls_do_not_change_the_answer(values: pa.Array, count: int, is_first: bool) -> None:
    nulls = pa.nulls(count, values.type)
    chunks = [nulls, values] if is_first else [values, nulls]
    found = infer_column("column", pa.chunked_array(chunks))
    assert replace(found, arrow_type="", n_nulls=0, reason="") == answer(values)
    assert found.n_nulls == infer_column("column", values).n_nulls + count


@given(ANY_COLUMN, st.lists(st.integers(0, 60), max_size=5))
def test_chunks_do_not_change_the_answer(values: pa.Array, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    chunks = [values[start:end] for start, end in itertools.pairwise(ends)]
    assert infer_column("column", pa.chunked_array(chunks, values.type)) == infer_column("column", values)


@given(STRINGS | INTEGERS)
def test_dictionary_and_run_end_encoding_do_not_change_the_answer(values: pa.Array) -> None:
    assert answer(values.dictionary_encode()) == answer(values)
    assert answer(pa.compute.run_end_encode(values)) == answer(values)


@given(STRINGS)
def test_the_width_of_strings_does_not_change_the_answer(values: pa.Array) -> None:
    assert answer(values.cast(pa.large_string())) == answer(values)
    assert answer(values.cast(pa.string_view())) == answer(values)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=60))
def test_numbers_as_strings_are_the_same_numbers(values: list[int]) -> None:
    as_numbers, as_strings = (
        infer_column("x", pa.array(values)),
        infer_column("x", pa.array([str(one) for one in values])),
    )
    assert (as_strings.kind, as_strings.is_id, as_strings.distinct) == (
        as_numbers.kind,
        as_numbers.is_id,
        as_numbers.distinct,
    )


@given(ANY_COLUMN)
def test_counts_add_up(values: pa.Array) -> None:
    column = infer_column("column", values)
    assert column.n_values + column.n_nulls == len(values)
    assert column.n_distinct is None or column.n_distinct <= column.n_values
    assert (column.kind is Kind.EMPTY) == (column.n_values == 0) or pa.types.is_nested(values.type)
    assert column.reason


@given(st.dictionaries(st.sampled_from(["text", "label", "score", "prompt", "output", "x", "id"]), REAL, min_size=1))
def test_any_table_gives_columns_that_it_has_or_an_error_with_a_hint(columns: dict[str, pa.Array]) -> None:
    types = {name: infer_column(name, values) for name, values in columns.items()}
    try:
        chosen = choose_task(types, TaskRequest(), where="table")
    except DataError as error:
        assert error.hint and error.where == "table"
    else:
        assert set(chosen.names) <= set(columns)
        assert set(chosen.task.roles.required) <= set(chosen.columns)


@pytest.mark.parametrize("example", COLUMNS, ids=lambda example: f"{example.name}-{example.comment}")
def test_a_real_column_is_the_same_backwards_with_nulls_and_in_pieces(example: Example) -> None:
    values = column_of(example)
    backwards = column_of(example._replace(values=example.values[::-1]))
    pieces = [backwards[:1], pa.nulls(3, values.type), backwards[1:]]
    assert answer(pa.chunked_array(pieces, values.type)) == answer(values)


def test_a_hundred_thousand_rows_take_well_under_a_second_for_each_column() -> None:
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices(string.ascii_lowercase, k=6)) for _ in range(1000)]
    rows = 100_000
    table = pa.table(
        {
            "text": [" ".join(draw.choices(vocabulary, k=20)) for _ in range(rows)],
            "label": [draw.choice(vocabulary[:5]) for _ in range(rows)],
            "number": [draw.random() for _ in range(rows)],
            "digits": [str(draw.random()) for _ in range(rows)],
            "id": range(rows),
            "messages": ['[{"role": "user", "content": "%s"}]' % draw.random() for _ in range(rows)],  # noqa: UP031
        }
    )
    begin = time.process_time()
    infer_types(table)
    assert (time.process_time() - begin) / table.num_columns < 0.5
