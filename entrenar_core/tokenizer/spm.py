"""SentencePiece BPE with scores (`tokenizer.ggml.model = llama`) as a `tokenizers.Tokenizer`.

Each way to put a piece together from two others becomes a merge, ranked by the piece's score. Ranks cannot say "equal
scores: leftmost first"; words in which that could matter (`_ambiguity`) go through `merge_by_score` and are remembered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.tokenizer.bpe import byte_of_token
from entrenar_core.tokenizer.spm_merge import merge_by_score
from entrenar_core.tokenizer.vocabulary import MetadataReader, TokenKind, Vocabulary

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_WORD = rf"{SPACE}+[^{SPACE}]*|[^{SPACE}]+"
_REMEMBERED_LENGTH = 64
MERGEABLE = (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
"""The kinds of tokens that merges are made of."""


class ScoreModel:
    """Text to ids and ids to bytes for a SentencePiece vocabulary.

    Attributes:
        rust: the `tokenizers.Tokenizer`; it knows no special tokens.
        add_space_prefix: text gets a space in front at the start and after a special token.
    """

    def __init__(
        self, vocabulary: Vocabulary, scores: npt.NDArray[np.float64], byte_ids: Sequence[int], add_space_prefix: bool
    ) -> None:
        self._vocabulary = vocabulary
        self._byte_ids = byte_ids
        self.add_space_prefix = add_space_prefix
        mergeable = np.flatnonzero(np.isin(vocabulary.kinds, MERGEABLE)).tolist()
        self._ids = {vocabulary.tokens[index]: index for index in mergeable}
        self._scores = {vocabulary.tokens[index]: float(scores[index]) for index in mergeable}
        splits = {text: _splits(text, self._ids) for text in self._ids if len(text) > 1}
        made = {text: lengths for text, lengths in splits.items() if lengths}
        one_word_at_a_time = not any(SPACE in text.lstrip(SPACE) for text in made)
        self._word = re.compile(_WORD if one_word_at_a_time else r"(?s:.+)")
        self._ambiguity = _ambiguity(made, self._scores, self._ids)
        merges = _ranked_merges(made, self._scores)
        self.rust = _build_rust(self._ids, byte_ids, merges, vocabulary, one_word_at_a_time)
        self._remembered = lru_cache(maxsize=1 << 16)(self._encode_word)

    def prepared(self, text: str, *, after_special: bool) -> str:
        """`text` as pieces spell it, character by character, with the space that comes in front of it."""
        if after_special and self.add_space_prefix:
            text = " " + text
        return text.replace(" ", SPACE)

    def jobs(self, text: str) -> list[str | list[int]]:
        """A prepared text as strings for the Rust tokenizer and ready ids, in order."""
        if self._ambiguity is None or not self._ambiguity.search(text):
            return [text]
        jobs: list[str | list[int]] = []
        plain = start = 0
        for word in self._word.findall(text):
            end = start + len(word)
            if self._ambiguity.search(word):
                if plain < start:
                    jobs.append(text[plain:start])
                jobs.append(self._remembered(word) if len(word) <= _REMEMBERED_LENGTH else self._encode_word(word))
                plain = end
            start = end
        if plain < start:
            jobs.append(text[plain:start])
        return jobs

    def covered_bytes(self, token_id: int) -> int:
        """Bytes of a prepared text that a token stands for."""
        if self._vocabulary.kinds[token_id] == TokenKind.BYTE:
            return 1
        return len(self._vocabulary.tokens[token_id].encode("utf-8", "surrogateescape"))

    def token_bytes(self, token_id: int) -> bytes:
        """The text of a token as UTF-8 bytes, possibly part of a character."""
        text = self._vocabulary.tokens[token_id]
        kind = self._vocabulary.kinds[token_id]
        if kind == TokenKind.BYTE:
            return byte_of_token(text, self._vocabulary.source)
        if kind == TokenKind.NORMAL:
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "surrogateescape")

    def _encode_word(self, word: str) -> list[int]:
        ids: list[int] = []
        for part in merge_by_score(word, self._scores):
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                ids.extend(self._byte_ids[byte] for byte in part.encode())
        return ids


def build_score_model(reader: MetadataReader, vocabulary: Vocabulary) -> ScoreModel:
    """Read scores and rules and build the model; TokenizerError where they do not fit the tokens."""
    scores = reader.numbers("scores", len(vocabulary.tokens)).astype(np.float64)
    if np.isnan(scores).any():
        raise reader.error("scores", f"the score of token {int(np.argmax(np.isnan(scores)))} is not a number")
    return ScoreModel(vocabulary, scores, _read_byte_ids(reader, vocabulary), reader.flag("add_space_prefix", True))


def merges_of_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges that spell out a SentencePiece vocabulary, best first.

    Args:
        scores: of all pieces that can be merged or made by merging. Parts that are no piece themselves are left out.
    """
    splits = {text: _splits(text, scores) for text in scores if len(text) > 1}
    merges = _ranked_merges({text: lengths for text, lengths in splits.items() if lengths}, scores)
    return [(left, right) for left, right in merges if left in scores and right in scores]


def _read_byte_ids(reader: MetadataReader, vocabulary: Vocabulary) -> list[int]:
    """The ids of `<0x00>` to `<0xFF>`; characters without a token of their own are spelled with them."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    missing = [name for name in names if name not in vocabulary.ids]
    if missing:
        raise reader.error("tokens", f"{len(missing)} of the 256 byte tokens are missing, the first is {missing[0]}")
    return [vocabulary.ids[name] for name in names]


def _splits(text: str, ids: Collection[str]) -> list[int]:
    """Lengths of the left part wherever both parts are pieces or single characters."""
    last = len(text) - 1
    return [
        length
        for length in range(1, len(text))
        if (length == 1 or text[:length] in ids) and (length == last or text[length:] in ids)
    ]


def _has_period(text: str, length: int) -> bool:
    return text[length:] == text[: len(text) - length]


def _ambiguity(
    made: Mapping[str, list[int]], scores: Mapping[str, float], ids: Mapping[str, int]
) -> re.Pattern[str] | None:
    """Finds pieces whose merges cannot be ranked so that the leftmost of equals always comes first.

    Where none occurs, ranks are exact: the order among places that make the same piece is then without effect, unless
    two of them overlap, X Y Z with XY = YZ, and for these `_ranked_merges` puts XY first. It has an effect when
    - pieces share a score;
    - both orders of an overlap occur, because the piece repeats a shorter text;
    - one place takes a symbol away from the next (`_takes_from_neighbour`);
    - a part is a character without a token, for which there is no merge.
    """
    shared = {score for score, count in Counter(scores[text] for text in made).items() if count > 1}

    def is_ambiguous(text: str, lengths: list[int]) -> bool:
        return (
            scores[text] in shared
            or not ids.keys() >= set(text)
            or any(_both_orders(text, length, lengths) for length in lengths)
            or any(_takes_from_neighbour(text, length, scores, made) for length in lengths)
        )

    minimal = _shortest([text for text, lengths in made.items() if is_ambiguous(text, lengths)])
    return re.compile("|".join(map(re.escape, minimal))) if minimal else None


def _shortest(texts: list[str]) -> list[str]:
    """The texts that hold no other of them: whoever finds these finds all."""
    shortest: list[str] = []
    for text in sorted(texts, key=len):
        if not any(shorter in text for shorter in shortest):
            shortest.append(text)
    return shortest


def _takes_from_neighbour(text: str, length: int, scores: Mapping[str, float], made: Mapping[str, list[int]]) -> bool:
    """Whether merging `text` from these parts can use up a symbol that waits to make the same piece as the other part.

    One part holds a piece P that was just made; the other part is what a second P, still waiting beside it, ends
    (or begins) with; and `text` outranks P, so it does not wait.
    """
    left, right = text[:length], text[length:]
    waiting: Iterator[str] = iter(())
    if left in right:
        waiting = (piece for piece in _pieces_within(right, made) if len(piece) - len(left) in made[piece])
        waiting = filter(lambda piece: piece.endswith(left), waiting)
    elif right in left:
        waiting = (piece for piece in _pieces_within(left, made) if len(right) in made[piece])
        waiting = filter(lambda piece: piece.startswith(right), waiting)
    return any(scores[piece] <= scores[text] for piece in waiting)


def _pieces_within(text: str, made: Mapping[str, list[int]]) -> Iterator[str]:
    """Every piece that `text` holds and that merges can make."""
    for start in range(len(text)):
        for end in range(start + 2, len(text) + 1):
            if text[start:end] in made:
                yield text[start:end]


def _both_orders(text: str, length: int, lengths: list[int]) -> bool:
    other = len(text) - length
    return other != length and other in lengths and _has_period(text, length) and _has_period(text, other)


def _ranked_merges(made: Mapping[str, list[int]], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """All merges, best score first; of two that can overlap, the one that is then on the left comes first."""
    ranked = sorted(made, key=lambda text: -scores[text])
    return [
        (text[:length], text[length:])
        for text in ranked
        for length in sorted(made[text], key=lambda length, text=text: not _has_period(text, length))  # type: ignore[misc]
    ]


def _build_rust(
    ids: Mapping[str, int],
    byte_ids: Sequence[int],
    merges: Iterable[tuple[str, str]],
    vocabulary: Vocabulary,
    one_word_at_a_time: bool,
) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    pieces = dict(ids)
    pieces.update((vocabulary.tokens[index], index) for index in byte_ids)
    known = [(left, right) for left, right in merges if left in pieces and right in pieces]
    tokenizer = Tokenizer(models.BPE(pieces, known, byte_fallback=True))
    if one_word_at_a_time:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")
    return tokenizer
