"""What a head learns to say: classes in an order that rows do not decide, and the scale of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.labels import MOST_CLASSES, Labels, class_name, fit_labels
from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError


def placed(values: Sequence[Any]) -> list[tuple[Any, Callable[[], str]]]:
    """Labels with the names of their rows."""
    return [(value, partial("a.csv, row {}".format, row)) for row, value in enumerate(values, start=1)]


def classes(*values: Any) -> tuple[str, ...]:
    return fit_labels(Task.CLASSIFICATION, placed(values), "a.csv").classes


def scale(*values: Any) -> Labels:
    return fit_labels(Task.REGRESSION, placed(values), "a.csv")


def test_classes_are_sorted_without_the_blanks_around_them() -> None:
    assert classes("dog", "cat", "dog", " cat ") == ("cat", "dog")


def test_classes_that_are_numbers_are_sorted_as_numbers() -> None:
    assert classes(10, 9, 2.0, 2) == ("2", "9", "10")


@given(st.permutations(["nan", "NaN", "inf", "-inf", "b", "3", "-1"]))
def test_words_that_python_takes_for_numbers_are_sorted_as_words(labels: list[str]) -> None:
    assert classes(*labels) == ("-1", "3", "-inf", "NaN", "b", "inf", "nan")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "true"),
        (False, "false"),
        ("True", "true"),
        ("FALSE", "false"),
        (3, "3"),
        (3.0, "3"),
        (Decimal("3.00"), "3"),
        (3.5, "3.5"),
        (" a ", "a"),
    ],
)
def test_a_label_is_a_text_whatever_its_type(value: object, name: str) -> None:
    assert class_name(value) == name


def test_a_class_has_the_same_id_for_every_spelling_of_its_type() -> None:
    labels = fit_labels(Task.CLASSIFICATION, placed([1, 2]), "a.csv")
    assert {labels.target_of(value, lambda: "row 1") for value in (2, 2.0, "2")} == {(1, None)}


@pytest.mark.parametrize(("values", "said"), [([], "there is none"), (["a", "a"], "there is only 'a'")])
def test_one_class_is_nothing_to_learn(values: list[str], said: str) -> None:
    with pytest.raises(DataError, match=f"at least two classes, and {said}"):
        classes(*values)


def test_a_column_of_names_is_no_label() -> None:
    with pytest.raises(DataError, match=f"more than {MOST_CLASSES} distinct values") as error:
        classes(*(f"name {index}" for index in range(MOST_CLASSES + 1)))
    assert "data.columns" in str(error.value.hint)


@pytest.mark.parametrize("label", ["Postive", "POSITIVE"])
def test_a_class_that_the_training_data_lack_is_an_error_with_the_nearest_one(label: str) -> None:
    labels = fit_labels(Task.CLASSIFICATION, placed(["negative", "positive"]), "a.csv")
    with pytest.raises(DataError, match=f"the label '{label}' is not among the classes") as error:
        labels.target_of(label, lambda: "val.csv, row 7")
    assert error.value.where == "val.csv, row 7"
    assert error.value.hint == "did you mean 'positive'? fix the spelling, or add the class to the training data"


@pytest.mark.property
@given(st.lists(st.floats(-1e6, 1e6), min_size=2).filter(lambda values: statistics.pstdev(values) > 1e-3))
def test_the_scale_of_numbers_is_their_mean_and_deviation(values: list[float]) -> None:
    labels = scale(*values)
    assert labels.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert labels.std == pytest.approx(statistics.pstdev(values), rel=1e-6)


def test_numbers_may_be_written_as_text() -> None:
    assert scale("1.5", 2.5).mean == 2.0


@pytest.mark.parametrize("value", ["many", math.nan, math.inf, [1]])
def test_a_target_that_is_no_finite_number_is_an_error_that_names_its_row(value: object) -> None:
    with pytest.raises(DataError, match="is not a finite number") as error:
        scale(1.0, value)
    assert error.value.where == "a.csv, row 2"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "no row has a text and a number"),
        ([3, 3.0], "every target is 3"),
        ([1e300, -1e300], "their standard deviation is not finite"),
    ],
)
def test_targets_without_a_scale_are_an_error(values: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        scale(*values)
    assert error.value.where == "a.csv"
    assert error.value.hint
