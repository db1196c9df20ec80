"""What a head learns to say: the classes of a category column, or the scale of a number column.

Both are read from the training data in one pass over one column before anything is tokenized. Classes are sorted,
numbers as numbers, so that the order of the rows does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError

MOST_CLASSES = 1000
"""More distinct labels than this are no classes: a name or an id was taken for a label."""


@dataclass(frozen=True)
class Labels:
    """Either `classes`, for classification, or `mean` and `std` of the targets, for regression."""

    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    def target_of(self, value: Any, where: Callable[[], str]) -> tuple[int, float | None]:
        """The class id and None, or 0 and the number.

        Raises:
            DataError: a class that the training data do not have, or a number that is not finite.
        """
        if not self.classes:
            return 0, number_of(value, where)
        name = class_name(value)
        class_id = self._ids.get(name)
        if class_id is None:
            shown = ", ".join(self.classes[:10]) + (" ..." if len(self.classes) > 10 else "")
            raise DataError(
                f"the label {name!r} is not among the classes of the training data: {shown}",
                where=where(),
                hint="correct it, drop the row, or add rows of this class to data.train",
            )
        return class_id, None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}


def class_name(value: Any) -> str:
    """A label as text: 1 and 1.0 are the same class, true is written as YAML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def number_of(value: Any, where: Callable[[], str]) -> float:
    """A target of regression, also from a text such as ``"4.5"``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"the target {value!r} is not a finite number",
            where=where(),
            hint="correct it, drop the row, or leave it empty",
        )
    return number


def fit_labels(task: Task, values: Iterable[Any], where: str) -> Labels:
    """Classes or scale of all training labels (None for a missing one, which is passed over).

    Raises:
        DataError: fewer than two classes or too many of them, no number, or all numbers alike.
    """
    present = (value for value in values if value is not None and not (isinstance(value, str) and not value.strip()))
    return _classes(present, where) if task is Task.CLASSIFICATION else _scale(present, where)


def _classes(values: Iterable[Any], where: str) -> Labels:
    names: set[str] = set()
    for value in values:
        names.add(class_name(value))
        if len(names) > MOST_CLASSES:
            raise DataError(
                f"the label column has more than {MOST_CLASSES} distinct values",
                where=where,
                hint="is it a name or an id? name the label with data.columns: {label: ...}, or set data.task",
            )
    if len(names) < 2:
        raise DataError(
            f"classification needs at least two classes, and there {_found(sorted(names))}",
            where=where,
            hint="check data.columns.label",
        )
    return Labels(classes=tuple(sorted(names, key=_class_order)))


def _found(names: list[str]) -> str:
    return f"is only {names[0]!r}" if names else "is none"


def _class_order(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _scale(values: Iterable[Any], where: str) -> Labels:
    """Mean and standard deviation by Welford's running update (1962)."""
    count, mean, spread = 0, 0.0, 0.0
    for value in values:
        number = number_of(value, lambda: where)
        count += 1
        step = number - mean
        mean += step / count
        spread += step * (number - mean)
    if count == 0:
        raise DataError("the target column has no number", where=where, hint="check data.columns.target")
    std = math.sqrt(spread / count)
    if std == 0.0:
        raise DataError(
            f"every target is {mean:g}: there is nothing to learn", where=where, hint="check data.columns.target"
        )
    return Labels(mean=mean, std=std)
