"""What a head learns to say: the classes of a category column, or the scale of a number column.

Both are read from the training data in one pass before anything is tokenized. Classes are sorted, numbers as numbers,
so that the order of the rows does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError

Where = Callable[[], str]
"""Names the place of a label, for messages."""

MOST_CLASSES = 1000
"""More distinct labels than this are no classes: a name or an id was taken for a label."""


@dataclass(frozen=True)
class Labels:
    """Either `classes`, for classification, or `mean` and `std` of the targets, for regression."""

    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    def target_of(self, value: Any, where: Where) -> tuple[int, float | None]:
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
                hint=f"{self._nearest(name)}fix the spelling, or add the class to the training data",
            )
        return class_id, None

    def _nearest(self, name: str) -> str:
        by_lower = {known.lower(): known for known in self.classes}
        close = get_close_matches(name.lower(), list(by_lower), n=1)
        return f"did you mean {by_lower[close[0]]!r}? " if close else ""

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}


def class_name(value: Any) -> str:
    """A label as text: 1 and 1.0 are the same class, and so are true and "True"."""
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    name = str(value).strip()
    return name.lower() if name.lower() in ("true", "false") else name


def number_of(value: Any, where: Where) -> float:
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


def fit_labels(task: Task, labelled: Iterable[tuple[Any, Where]], where: str) -> Labels:
    """Classes or scale of the training labels.

    Args:
        task: classification or regression.
        labelled: the labels or targets of all rows that are used, none of them missing, with their places.
        where: the column, for what is wrong with all of them.

    Raises:
        DataError: fewer than two classes or too many of them; a target that is no finite number, no target at all, or
            targets that are all alike or too far apart for a float64.
    """
    return _classes(labelled, where) if task is Task.CLASSIFICATION else _scale(labelled, where)


def _classes(labelled: Iterable[tuple[Any, Where]], where: str) -> Labels:
    names: set[str] = set()
    for value, _ in labelled:
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
            hint="check data.columns; rows without a text do not count",
        )
    return Labels(classes=tuple(sorted(names, key=_class_order)))


def _found(names: list[str]) -> str:
    return f"is only {names[0]!r}" if names else "is none"


def _class_order(name: str) -> tuple[int, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)


def _scale(labelled: Iterable[tuple[Any, Where]], where: str) -> Labels:
    """Mean and standard deviation by Welford's running update (1962)."""
    count, mean, spread = 0, 0.0, 0.0
    for value, place in labelled:
        number = number_of(value, place)
        count += 1
        step = number - mean
        mean += step / count
        spread += step * (number - mean)
    if count == 0:
        raise DataError("no row has a text and a number", where=where, hint="check data.columns")
    std = math.sqrt(spread / count)
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise DataError(
            "the targets are too far apart: their mean or their standard deviation is not finite",
            where=where,
            hint="look for absurd values, or store the targets in a larger unit",
        )
    if std == 0.0:
        raise DataError(
            f"every target is {mean:g}: there is nothing to learn", where=where, hint="check data.columns.target"
        )
    return Labels(mean=mean, std=std)
