"""Cuts special tokens out of text before the sub-word model sees the rest.

llama.cpp's rule: tokens are tried longest first (in bytes), each splits every piece of text that is left. Without
`parse_special` only user-defined tokens are cut out; control and unknown tokens stay text. In text that is mixed from a
template and data, they are cut out of the template's part only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


Cut = tuple[int, int, int | None]
"""Begin, end, and the id of a special token or None for text. What a token swallowed to its right is in no cut."""


class SpecialSplitter:
    """Splits text into pieces of text and ids of special tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._strip_right = vocabulary.strip_right
        self._user_defined = _candidates(vocabulary, (TokenKind.USER_DEFINED,))
        self._special = _candidates(vocabulary, (TokenKind.USER_DEFINED, TokenKind.CONTROL, TokenKind.UNKNOWN))
        self._in_data_too = frozenset(token_id for _, token_id in self._user_defined.tokens)

    def split(self, text: str, *, parse_special: bool) -> list[str | int]:
        """`text` as non-empty strings and token ids, in order."""
        cuts = self._cuts(text, self._special if parse_special else self._user_defined, b"")
        return [text[begin:end] if token_id is None else token_id for begin, end, token_id in cuts]

    def cuts(self, text: str, data: bytes) -> list[Cut]:
        """`text` as non-empty stretches of plain text and special tokens, in order.

        Args:
            text: what a template rendered.
            data: 1 for each character that came from the data, where control and unknown tokens stay text; else 0.
        """
        return self._cuts(text, self._special, data)

    def _cuts(self, text: str, candidates: _Candidates, data: bytes) -> list[Cut]:
        if not text:
            return []
        cuts: list[Cut] = [(0, len(text), None)]
        if candidates.beginning is None or not candidates.beginning.search(text):
            return cuts
        for token, token_id in candidates.tokens:
            if token in text:
                protected = b"" if token_id in self._in_data_too else data
                cuts = [part for cut in cuts for part in self._cut(text, cut, token, token_id, protected)]
        return cuts

    def _cut(self, text: str, cut: Cut, token: str, token_id: int, data: bytes) -> list[Cut]:
        begin, end, found = cut
        if found is not None:
            return [cut]
        parts: list[Cut] = []
        for hit in _hits(text, begin, end, token, data):
            if hit < begin:
                continue
            if hit > begin:
                parts.append((begin, hit, None))
            begin = hit + len(token)
            parts.append((hit, begin, token_id))
            if token_id in self._strip_right:
                begin = end - len(text[begin:end].lstrip(_WHITE_SPACE))
        if begin < end:
            parts.append((begin, end, None))
        return parts


def _hits(text: str, begin: int, end: int, token: str, data: bytes) -> Iterator[int]:
    """Places of `token` from left to right that neither overlap each other nor a character of the data."""
    hit = text.find(token, begin, end)
    while hit >= 0:
        after = hit + len(token)
        if data.find(1, hit, after) < 0:
            yield hit
        else:
            after = hit + 1
        hit = text.find(token, after, end)


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
