"""Metrics of heads against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.model.head_metrics import Answers, classification_metrics, joined, regression_metrics


def classes(predicted: list[int], actual: list[int]) -> dict[str, float | None]:
    return classification_metrics(Answers(np.array(predicted), np.array(actual)))


def numbers(predicted: list[float], actual: list[float]) -> dict[str, float | None]:
    return regression_metrics(Answers(np.array(predicted, float), np.array(actual, float)))


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert classes([0, 1, 1, 2], [0, 1, 2, 2])["accuracy"] == 0.75


def test_macro_f1_is_the_mean_of_the_classes_own_f1() -> None:
    # class 0: tp 2, fp 1, fn 0: 4/5; class 1: tp 1, fp 1, fn 1: 2/4; class 2: tp 1, fp 0, fn 1: 2/3
    found = classes([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


def test_all_right_is_one_and_all_wrong_is_nothing() -> None:
    assert classes([0, 1, 2], [0, 1, 2]) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert classes([1, 2, 0], [0, 1, 2]) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_a_class_that_the_data_lack_counts_only_where_it_is_named() -> None:
    assert classes([0, 2, 2], [0, 2, 2])["macro_f1"] == 1.0
    # class 0: tp 1, fn 1: 2/3; class 1: named once, never true: 0
    assert classes([0, 1], [0, 0])["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_squared_and_absolute_error_are_means() -> None:
    found = numbers([1.0, 2.0, 6.0], [1.0, 4.0, 5.0])
    assert (found["mse"], found["mae"]) == (pytest.approx(5 / 3), pytest.approx(1.0))


def test_r2_is_the_share_of_the_spread_that_is_explained() -> None:
    # mean of the targets 10/3; spread 49/9 + 4/9 + 25/9 = 26/3; errors 0 + 4 + 1
    assert numbers([1.0, 2.0, 6.0], [1.0, 4.0, 5.0])["r2"] == pytest.approx(1 - 5 / (26 / 3))
    assert numbers([3.0, 3.0, 3.0], [1.0, 3.0, 5.0])["r2"] == 0.0
    assert numbers([5.0, 3.0, 1.0], [1.0, 3.0, 5.0])["r2"] == pytest.approx(-3.0)


@pytest.mark.parametrize("actual", [[2.0], [0.1, 0.1, 0.1]])
def test_r2_is_not_defined_where_the_targets_do_not_vary(actual: list[float]) -> None:
    found = numbers([1.5] * len(actual), actual)
    assert found["r2"] is None
    assert found["mae"] == pytest.approx(abs(1.5 - actual[0]))


def test_answers_of_batches_are_joined_in_order() -> None:
    whole = joined([Answers(np.array([1]), np.array([0])), Answers(np.array([2, 3]), np.array([2, 1]))])
    assert (whole.predicted.tolist(), whole.actual.tolist()) == ([1, 2, 3], [0, 2, 1])
