"""What a head learns to say: classes in an order that rows do not decide, and the scale of numbers."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.labels import MOST_CLASSES, class_name, fit_labels
from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError


def classes(*values: Any) -> tuple[str, ...]:
    return fit_labels(Task.CLASSIFICATION, values, "a.csv").classes


def test_classes_are_sorted_and_missing_labels_passed_over() -> None:
    assert classes("dog", None, "cat", "", "dog", " cat ") == ("cat", "dog")


def test_classes_that_are_numbers_are_sorted_as_numbers() -> None:
    assert classes(10, 9, 2.0, 2) == ("2", "9", "10")


@pytest.mark.parametrize(
    ("value", "name"), [(True, "true"), (False, "false"), (3, "3"), (3.0, "3"), (3.5, "3.5"), (" a ", "a")]
)
def test_a_label_is_a_text_whatever_its_type(value: object, name: str) -> None:
    assert class_name(value) == name


def test_a_class_has_the_same_id_for_every_spelling_of_its_type() -> None:
    labels = fit_labels(Task.CLASSIFICATION, [1, 2], "a.csv")
    assert {labels.target_of(value, lambda: "row 1") for value in (2, 2.0, "2")} == {(1, None)}


@pytest.mark.parametrize(("values", "said"), [([], "there is none"), (["a", "a"], "there is only 'a'")])
def test_one_class_is_nothing_to_learn(values: list[str], said: str) -> None:
    with pytest.raises(DataError, match=f"at least two classes, and {said}"):
        classes(*values)


def test_a_column_of_names_is_no_label() -> None:
    with pytest.raises(DataError, match=f"more than {MOST_CLASSES} distinct values") as error:
        classes(*(f"name {index}" for index in range(MOST_CLASSES + 1)))
    assert "data.columns" in str(error.value.hint)


@pytest.mark.property
@given(st.lists(st.floats(-1e6, 1e6), min_size=2).filter(lambda values: statistics.pstdev(values) > 1e-3))
def test_the_scale_of_numbers_is_their_mean_and_deviation(values: list[float]) -> None:
    labels = fit_labels(Task.REGRESSION, values, "a.csv")
    assert labels.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert labels.std == pytest.approx(statistics.pstdev(values), rel=1e-6)


def test_numbers_may_be_written_as_text() -> None:
    assert fit_labels(Task.REGRESSION, ["1.5", 2.5, None], "a.csv").mean == 2.0


@pytest.mark.parametrize("value", ["many", math.nan, math.inf, [1]])
def test_a_target_that_is_no_finite_number_is_an_error(value: object) -> None:
    with pytest.raises(DataError, match="is not a finite number"):
        fit_labels(Task.REGRESSION, [1.0, value], "a.csv")


@pytest.mark.parametrize(("values", "said"), [([], "no number"), ([3, 3.0], "every target is 3")])
def test_targets_that_are_all_alike_are_an_error(values: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit_labels(Task.REGRESSION, values, "a.csv")
