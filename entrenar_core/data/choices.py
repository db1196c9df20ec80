"""Questions with the answers to choose from, out of the columns that MMLU, ARC, HellaSwag and their like have.

question   text                    question, query, ctx ...
choices    [text, ...]             choices, options, endings ...; also {text: [...], label: [...]},
                                   [{text, label}, ...], or a column for each choice
answer     index, letter or text   answer, answerKey, label ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from entrenar_core.data.column_types import ColumnType, Kind
from entrenar_core.data.row_encoders import is_missing
from entrenar_core.data.source import DataSource, values_of
from entrenar_core.data.task_names import OPTIONS_NAMES
from entrenar_core.errors import DataError

CHOICE_ROLES = ("question", "choices", "answer")

# fmt: off
_NAMES: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "query", "question_stem", "stem", "ctx", "prompt", "problem", "context", "sentence",
                 "goal", "input", "text"),
    "choices": (*OPTIONS_NAMES, "endings", "candidates", "alternatives", "answers"),
    "answer": ("answer", "answerkey", "answer_key", "answer_idx", "answer_index", "answer_id", "correct_answer",
               "correct", "correct_option", "gold", "label", "target"),
}
# fmt: on
"""What data sets call the columns, in lower case, in the order of preference."""

_TEXT_KEYS = ("text", "choice", "option", "texts", "choices", "options")
_LABEL_KEYS = ("label", "key", "id", "labels", "keys", "ids")
_SEPARATOR = ","


@dataclass(frozen=True)
class ChoiceQuestion:
    """One question.

    Attributes:
        question: its text.
        choices: the texts to choose from, at least two.
        labels: what the data call them; else A, B, C ...
        answer: the index of the right one.
        columns: further values of the row by column.
    """

    question: str
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    answer: int
    columns: Mapping[str, Any] = field(default_factory=dict)


def choice_columns(types: Mapping[str, ColumnType]) -> dict[str, str]:
    """The columns that can be told by their names and types, by role; roles may be missing."""
    by_lower = {name.strip().lower(): name for name in types}
    found: dict[str, str] = {}
    for role, names in _NAMES.items():
        candidates = [by_lower[name] for name in names if name in by_lower]
        usable = [name for name in candidates if _fits(role, types[name]) and name not in found.values()]
        if usable:
            found[role] = usable[0]
    return found


def _fits(role: str, column: ColumnType) -> bool:
    if role == "question":
        return column.is_text_like
    return (column.kind is Kind.STRUCT) is (role == "choices")


class ChoiceData:
    """Opened questions; made by `open`.

    Attributes:
        source: the files.
        columns: column by role; that of the choices may be several, joined by commas.
        without_answer: rows read so far that were passed over because something is missing in them.
    """

    def __init__(self, source: DataSource, columns: Mapping[str, str], extra: Sequence[str]) -> None:
        self.source = source
        self.columns = columns
        self.without_answer = 0
        self._extra = extra
        names = source.schema.names
        given = columns["choices"]
        self._choices = [given] if given in names else [name.strip() for name in given.split(_SEPARATOR)]

    @classmethod
    def open(
        cls,
        path: str,
        types: Mapping[str, ColumnType],
        named: Mapping[str, str],
        extra: Sequence[str] = (),
    ) -> ChoiceData:
        """Open a file, a folder or a glob.

        Args:
            types: of its columns.
            named: columns by role that need not be found.
            extra: columns that are wanted besides.

        Raises:
            DataError: a role has no column, or a column is missing.
        """
        source = DataSource.open(path)
        columns = {**choice_columns(types), **named}
        for role in CHOICE_ROLES:
            if role not in columns:
                shown = ", ".join(f"{one.name} ({one.kind})" for one in types.values())
                raise DataError(
                    f"there is no column for the {role} of multiple-choice questions",
                    where=path,
                    hint=f"name it with --columns {role}=COLUMN; columns: {shown}",
                )
        found = cls(source, columns, extra)
        source.require(found._names())
        return found

    def questions(self, limit: int | None = None) -> Iterator[ChoiceQuestion]:
        """All questions in order, at most `limit`.

        Raises:
            DataError: a row is damaged: its choices are no texts, or its answer is none of them; names the row.
        """
        first_row, found = 0, 0
        for batch in self.source.read(self._names()):
            columns = {name: values_of(batch, name, first_row, self.source) for name in self._names()}
            for index in range(batch.num_rows):
                if found == limit:
                    return
                row = {name: values[index] for name, values in columns.items()}
                question = self._question(row, first_row + index)
                if question is None:
                    self.without_answer += 1
                else:
                    found += 1
                    yield question
            first_row += batch.num_rows

    def _names(self) -> list[str]:
        return list(dict.fromkeys([self.columns["question"], *self._choices, self.columns["answer"], *self._extra]))

    def _question(self, row: Mapping[str, Any], number: int) -> ChoiceQuestion | None:
        given = row[self._choices[0]] if len(self._choices) == 1 else [row[name] for name in self._choices]
        question, answer = row[self.columns["question"]], row[self.columns["answer"]]
        if is_missing(question) or given is None or is_missing(answer):
            return None
        where = self.source.locate(number)
        texts, labels = _texts_and_labels(given, f"{where}, column {self.columns['choices']}")
        index = answer_index(answer, texts, labels, f"{where}, column {self.columns['answer']}")
        shown = labels or tuple(ascii_uppercase[: len(texts)])
        return ChoiceQuestion(str(question), texts, shown, index, {name: row[name] for name in self._extra})


def answer_index(answer: Any, texts: Sequence[str], labels: Sequence[str], where: str) -> int:
    """Which choice an answer is: by its label, its text, its letter, or its index from 0, in this order.

    A number is an index unless it is one of the labels.

    Raises:
        DataError: it is none of them; `where` is its place.
    """
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    text = str(answer).strip()
    if text in labels:
        return list(labels).index(text)
    if isinstance(answer, str):
        if text in texts:
            return list(texts).index(text)
        if len(text) == 1 and text.upper() in ascii_uppercase:
            return _in_range(ascii_uppercase.index(text.upper()), answer, len(texts), where)
    try:
        return _in_range(int(text), answer, len(texts), where)
    except ValueError as error:
        raise DataError(
            f"the answer {text[:60]!r} is none of the choices",
            where=where,
            hint="it has to be the index from 0, the letter, the label or the text of a choice",
        ) from error


def _in_range(index: int, answer: object, n_choices: int, where: str) -> int:
    if not 0 <= index < n_choices:
        hint = "indices begin with 0, letters with A"
        if index == -1:
            hint = "-1 is how test sets hide their answers: take a split that has them"
        raise DataError(f"the answer {answer!r} is out of range: there are {n_choices} choices", where=where, hint=hint)
    return index


def _texts_and_labels(given: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and labels of a row's choices; no labels where the data have none."""
    texts, labels = _parts(given)
    if not isinstance(texts, list) or any(is_missing(one) or isinstance(one, list | Mapping) for one in texts):
        raise DataError(
            "the choices are no list of texts",
            where=where,
            hint="known are [text, ...] and {text: [...], label: [...]}",
        )
    if len(texts) < 2:
        raise DataError(f"a question needs two choices, here is {len(texts)}", where=where, hint="drop the row")
    if not isinstance(labels, list) or len(labels) != len(texts):
        return tuple(map(str, texts)), ()
    return tuple(map(str, texts)), tuple(str(label).strip() for label in labels)


def _parts(given: Any) -> tuple[Any, Any]:
    """What should be the texts and the labels."""
    if isinstance(given, Mapping):
        return _first_of(given, _TEXT_KEYS), _first_of(given, _LABEL_KEYS)
    if isinstance(given, list) and given and all(isinstance(one, Mapping) for one in given):
        labels = [_first_of(one, _LABEL_KEYS) for one in given]
        return [_first_of(one, _TEXT_KEYS) for one in given], None if None in labels else labels
    return given, None


def _first_of(value: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)
