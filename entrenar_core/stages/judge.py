"""Compares the answers of a head with the truth, where the data have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.data.labels import class_name, number_of
from entrenar_core.data.row_encoders import is_missing
from entrenar_core.errors import DataError
from entrenar_core.events import Notice
from entrenar_core.model.head_metrics import Answers, joined
from entrenar_core.model.heads import HeadSpec

SHOWN = 3
"""Values that a notice names."""


class Judge:
    """Collects answers and truths. `count` is the number of rows that were judged."""

    def __init__(self, head: HeadSpec) -> None:
        self.head = head
        self.count = 0
        self._ids = {name: index for index, name in enumerate(head.classes)}
        self._answers: list[Answers] = []
        self._unknown_rows = 0
        self._unknown: dict[str, None] = {}

    def add(self, truths: Sequence[Any], answered: npt.NDArray[np.bool_], outputs: np.ndarray) -> None:
        """Judge the rows that have an answer and a truth.

        Args:
            truths: labels or numbers as the data have them [n]; they may be missing.
            answered: which rows have an answer [n].
            outputs: of the head, [answered, C].
        """
        actual = [self._truth(value) for value, has_answer in zip(truths, answered, strict=True) if has_answer]
        places = [place for place, truth in enumerate(actual) if truth is not None]
        if places:
            said = outputs.argmax(axis=1) if self.head.is_classification else self.head.numbers(outputs)
            self._answers.append(Answers(said[places], np.array([actual[place] for place in places])))
            self.count += len(places)

    def metrics(self) -> Mapping[str, float | None]:
        """Over all rows; empty where nothing could be judged."""
        answers = self.answers()
        return {} if answers is None else self.head.metrics(answers)

    def answers(self) -> Answers | None:
        """What was said and what is true of all rows that were judged, if there are any."""
        return joined(self._answers) if self._answers else None

    def notices(self) -> Iterator[Notice]:
        """What the truth holds that the head cannot say."""
        if not self._unknown_rows:
            return
        what = (
            "with a label that the head was not trained on; no answer can be right there"
            if self.head.is_classification
            else "with a target that is no number; they are not judged"
        )
        shown = ", ".join(map(repr, self._unknown))
        rows = f"{self._unknown_rows} row{'s' if self._unknown_rows != 1 else ''}"
        yield Notice("warning", f"column {self.head.target_column}: {rows} {what} ({shown})")

    def _truth(self, value: Any) -> int | float | None:
        """A class id, one that the head does not have for an unknown class, or a number."""
        if is_missing(value):
            return None
        if self.head.is_classification:
            name = class_name(value)
            if name not in self._ids:
                self._note(name)
            return self._ids.get(name, len(self._ids))
        try:
            return number_of(value, lambda: self.head.target_column)
        except DataError:
            self._note(str(value))
            return None

    def _note(self, name: str) -> None:
        self._unknown_rows += 1
        if len(self._unknown) < SHOWN:
            self._unknown[name] = None
