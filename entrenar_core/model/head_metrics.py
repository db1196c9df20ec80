"""How good a head's answers are: accuracy and macro-F1 of classes; mean squared and absolute error and R² of numbers.

A metric that is not defined for the data (R² where all targets are the same) is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Metrics = dict[str, float | None]
"""Values by name, in the order in which they are shown."""


@dataclass(frozen=True)
class Answers:
    """What a head says of n documents, and what is true of them.

    predicted, actual: class ids int64 [n], or numbers float64 [n] in the units of the data.
    """

    predicted: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    actual: npt.NDArray[np.int64] | npt.NDArray[np.float64]


def joined(answers: Sequence[Answers]) -> Answers:
    """All answers as one."""
    return Answers(np.concatenate([one.predicted for one in answers]), np.concatenate([one.actual for one in answers]))


def classification_metrics(answers: Answers) -> Metrics:
    """`accuracy`, the share of right answers; `macro_f1`, the mean over classes of F1 = 2·tp/(2·tp + fp + fn).

    The mean is over the classes that occur, as a true or as a predicted one: a class that the data lack and that the
    head does not name says nothing, one that it names wrongly counts as 0.
    """
    predicted, actual = answers.predicted, answers.actual
    n_classes = int(max(predicted.max(), actual.max())) + 1
    said, true, right = (
        np.bincount(ids.astype(np.int64), minlength=n_classes)
        for ids in (predicted, actual, actual[predicted == actual])
    )
    occurs = said + true > 0
    f1 = 2 * right[occurs] / (said + true)[occurs]
    return {"accuracy": float(right.sum() / len(actual)), "macro_f1": float(f1.mean())}


@dataclass(frozen=True)
class ClassFigures:
    """One class: `support` documents are of it, `predicted` were said to be. None where there is nothing to divide by.

    precision: the share of right answers among the predicted; recall: among its own. f1 = 2·tp/(predicted + support).
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_figures(answers: Answers, names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class, by id; documents of a class that is not among `names` count as wrong answers."""
    predicted, actual = answers.predicted.astype(np.int64), answers.actual.astype(np.int64)
    said, true, right = (
        np.bincount(ids, minlength=len(names))[: len(names)].tolist()
        for ids in (predicted, actual, actual[predicted == actual])
    )
    return [
        ClassFigures(name, t, s, _share(r, s), _share(r, t), _share(2 * r, s + t))
        for name, s, t, r in zip(names, said, true, right, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def regression_metrics(answers: Answers) -> Metrics:
    """`mse` = mean e², `mae` = mean |e|, `r2` = 1 - Σ e²/Σ (y - mean y)², None where the targets do not vary."""
    errors = answers.predicted - answers.actual
    squares = float(np.square(errors).sum())
    spread = float(np.square(answers.actual - answers.actual.mean()).sum())
    varies = bool((answers.actual != answers.actual[0]).any())
    return {
        "mse": squares / len(errors),
        "mae": float(np.abs(errors).mean()),
        "r2": 1.0 - squares / spread if varies and spread > 0 else None,
    }
