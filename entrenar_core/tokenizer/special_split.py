"""Cuts special tokens out of text before the sub-word model sees the rest.

llama.cpp's rule: tokens are tried longest first (in bytes), each splits every piece of text that is left. Without
`parse_special` only user-defined tokens are cut out; control and unknown tokens stay text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from entrenar_core.tokenizer.vocabulary import TokenKind, Vocabulary

_WHITE_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class _Candidates:
    """Tokens to cut out, longest first.

    `beginning` finds what tokens with the same first character begin with: most texts have none and are done.
    """

    tokens: tuple[tuple[str, int], ...]
    beginning: re.Pattern[str] | None


class SpecialSplitter:
    """Splits text into pieces of text and ids of special tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._strip_right = vocabulary.strip_right
        self._user_defined = _candidates(vocabulary, (TokenKind.USER_DEFINED,))
        self._special = _candidates(vocabulary, (TokenKind.USER_DEFINED, TokenKind.CONTROL, TokenKind.UNKNOWN))

    def split(self, text: str, *, parse_special: bool) -> list[str | int]:
        """`text` as non-empty strings and token ids, in order."""
        candidates = self._special if parse_special else self._user_defined
        if not text:
            return []
        pieces: list[str | int] = [text]
        if candidates.beginning is None or not candidates.beginning.search(text):
            return pieces
        for token, token_id in candidates.tokens:
            if token in text:
                pieces = [part for piece in pieces for part in self._cut(piece, token, token_id)]
        return pieces

    def _cut(self, piece: str | int, token: str, token_id: int) -> list[str | int]:
        if isinstance(piece, int):
            return [piece]
        parts: list[str | int] = []
        start = 0
        while (hit := piece.find(token, start)) >= 0:
            if hit > start:
                parts.append(piece[start:hit])
            parts.append(token_id)
            start = hit + len(token)
            if token_id in self._strip_right:
                start = len(piece) - len(piece[start:].lstrip(_WHITE_SPACE))
        if start < len(piece):
            parts.append(piece[start:])
        return parts


def _candidates(vocabulary: Vocabulary, kinds: tuple[TokenKind, ...]) -> _Candidates:
    chosen = [(vocabulary.tokens[index], index) for index in np.flatnonzero(np.isin(vocabulary.kinds, kinds)).tolist()]
    chosen.sort(key=lambda entry: len(entry[0].encode("utf-8", "surrogateescape")), reverse=True)
    starts = {text[0]: [other for other, _ in chosen if other[0] == text[0]] for text, _ in chosen}
    beginnings = [re.escape(_common_beginning(texts)) for texts in starts.values()]
    return _Candidates(tuple(chosen), re.compile("|".join(beginnings)) if chosen else None)


def _common_beginning(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
