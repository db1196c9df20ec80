"""Which tokens of a student and its teachers are the same, so that their predictions can be compared.

Tokens are the same when their text is (between kinds of tokenizers, when they stand for the same bytes). Models whose
embeddings only differ in padding at the end share a prefix; otherwise tokens are mapped one by one. A teacher reads the
student's tokens in its own ids: text is cut as the student cuts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import ConfigError, TokenizerError
from entrenar_core.model.token_texts import Tokens
from entrenar_core.tokenizer.tokenizer import Tokenizer

Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

LACKING = -1
"""The id, in the teacher, of a token that it does not have."""

_EXAMPLES = 5


@dataclass(frozen=True)
class TokenMap:
    """The student's tokens in one teacher.

    Attributes:
        path: of the teacher.
        ids: int32 [V student], the teacher's id of each token; `LACKING` where it has none.
        read_as: int32 [V student], what the teacher reads for each token: its own id, or for one that it lacks the
            first token into which it cuts the same text.
        n_tokens: of the student, padding left out.
        shared: how many of these the teacher has.
        examples: of those that it lacks.
    """

    path: str
    ids: Int32Array
    read_as: Int32Array
    n_tokens: int
    shared: int
    examples: tuple[str, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the student's tokens that the teacher has."""
        return self.shared / max(1, self.n_tokens)

    @property
    def is_prefix(self) -> bool:
        """Whether the first tokens are the same, and the others are in one model only."""
        known = self.ids != LACKING
        n = int(known.sum())
        return bool(known[:n].all()) and bool((self.ids[:n] == np.arange(n)).all())

    def has(self, tokens: Int32Array) -> BoolArray:
        """Whether the teacher has these tokens of the student, any shape."""
        found: BoolArray = self.ids[tokens] != LACKING
        return found

    def share_of(self, tokens: Int32Array) -> float:
        """Share of tokens of a text, any shape, that the teacher has."""
        return float(self.has(tokens).mean()) if tokens.size else 1.0


@dataclass(frozen=True)
class SharedVocabulary:
    """The tokens that a student and all of its teachers have.

    Attributes:
        n: how many.
        columns: int32 [n], their ids in the student; None: the first n.
        teacher_columns: for each teacher the same in its ids.
        maps: for each teacher.
    """

    n: int
    columns: Int32Array | None
    teacher_columns: tuple[Int32Array | None, ...]
    maps: tuple[TokenMap, ...]


def map_tokens(student: Tokens, teacher: Tokens, cut: Tokenizer | None, min_coverage: float) -> TokenMap:
    """Find the student's tokens in a teacher.

    Args:
        student, teacher: their tokens.
        cut: the teacher's tokenizer, which says how it reads a token that it lacks; as its token 0 if it cannot.
        min_coverage: the least share of the student's tokens that the teacher must have.

    Raises:
        ConfigError: it has fewer.
        TokenizerError: the tokens of a model are not well formed.
    """
    across = student.model != teacher.model
    places, own = teacher.rows_by_name(across_kinds=across), student.rows_by_name(across_kinds=across)
    n_tokens = len(student.real_texts)
    names = student.names(across_kinds=across)[:n_tokens]
    read_as, ids = np.zeros(student.n_rows, np.int32), np.full(student.n_rows, LACKING, np.int32)
    for row, name in enumerate(names):
        place = places.get(name)
        read_as[row] = _first_token(student.meaning(row), cut) if place is None else place
        if place is not None and own[name] == row:  # a second token for the same bytes would count them twice
            ids[row] = place
    lacking = np.flatnonzero(ids[:n_tokens] == LACKING)
    examples = tuple(student.texts[row] for row in lacking[:_EXAMPLES])
    found = TokenMap(teacher.path, ids, read_as, n_tokens, n_tokens - len(lacking), examples)
    if found.coverage < min_coverage:
        raise ConfigError(_refusal(found, student.path, min_coverage), where="distill", hint=_hint(found.coverage))
    return found


def share_vocabulary(maps: Sequence[TokenMap]) -> SharedVocabulary:
    """What all teachers have of the student's tokens; at least one teacher."""
    everywhere = np.logical_and.reduce([one.ids != LACKING for one in maps])
    columns = np.flatnonzero(everywhere).astype(np.int32)
    is_first = bool((columns == np.arange(len(columns))).all())
    of_teachers = [one.ids[columns] for one in maps]
    return SharedVocabulary(
        len(columns),
        None if is_first else columns,
        tuple(None if bool((ids == np.arange(len(ids))).all()) else ids for ids in of_teachers),
        tuple(maps),
    )


def _first_token(meaning: str | bytes, cut: Tokenizer | None) -> int:
    text = meaning.decode("utf-8", "replace") if isinstance(meaning, bytes) else meaning
    try:
        found = [] if cut is None else cut.encode(text)
    except TokenizerError:  # a vocabulary without all bytes; what follows such a token is not compared anyway
        found = []
    return found[0] if found else 0


def _refusal(found: TokenMap, student: str, min_coverage: float) -> str:
    shown = ", ".join(map(repr, found.examples))
    return (
        f"{found.path} has {found.shared} of the {found.n_tokens} tokens of {student} ({found.coverage:.1%}, and"
        f" distill.min_coverage is {min_coverage:.1%}); it lacks {shown}"
    )


def _hint(coverage: float) -> str:
    advice = "choose a teacher with the tokenizer of the student"
    if coverage < 0.5:
        return advice
    return f"{advice}, or set distill.min_coverage: {int(coverage * 100) / 100}"
