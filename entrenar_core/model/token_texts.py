"""The tokens of a model, and what they stand for.

Byte-level vocabularies write a space as Ġ and every byte as a character, SentencePiece writes it as ▁ and has a token
for each byte besides. Between the two, tokens are the same when they stand for the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.errors import TokenizerError
from entrenar_core.gguf import keys
from entrenar_core.hugging_face.vocabulary import is_padding
from entrenar_core.tokenizer.bpe import CHARACTER_TO_BYTE, byte_of_token
from entrenar_core.tokenizer.spm import SPACE
from entrenar_core.tokenizer.vocabulary import TokenKind

BYTE_LEVEL = "gpt2"


@dataclass(frozen=True)
class Tokens:
    """The tokens of a model.

    Attributes:
        path: of the model.
        model: `tokenizer.ggml.model`, empty where it is not said.
        n_rows: of its embedding, which may have more rows than there are tokens.
        texts: as stored, by row; an empty text is called after its row.
        kinds: TokenKind of each.
    """

    path: str
    model: str
    n_rows: int
    texts: list[str]
    kinds: Sequence[int]

    @property
    def real_texts(self) -> list[str]:
        """Without those that only fill up rows at the end."""
        last = len(self.texts)
        while last and self.is_padding(last - 1):
            last -= 1
        return self.texts[:last]

    def is_padding(self, row: int) -> bool:
        """Whether a token stands for nothing."""
        return is_padding(self.texts[row], self.kinds[row])

    def names(self, *, across_kinds: bool) -> Sequence[str | bytes]:
        """What tells each token apart: its text, or across kinds of tokenizers what it stands for."""
        if not across_kinds:
            return self.texts
        return [self.meaning(row) for row in range(len(self.texts))]

    def rows_by_name(self, *, across_kinds: bool) -> Mapping[str | bytes, int]:
        """The row of each token. A byte may also be a token of its own, which then goes first."""
        rows: dict[str | bytes, int] = {}
        names = self.names(across_kinds=across_kinds)
        for row in sorted(range(len(names)), key=lambda row: self.kinds[row] == TokenKind.BYTE):
            rows.setdefault(names[row], row)
        return rows

    def meaning(self, row: int) -> str | bytes:
        """The bytes that a token stands for; the text itself of a control token, which stands for no text."""
        text, kind = self.texts[row], self.kinds[row]
        if kind == TokenKind.BYTE:
            return byte_of_token(text, self.path)
        if kind != TokenKind.NORMAL:
            return text
        if self.model == BYTE_LEVEL:
            return b"".join(CHARACTER_TO_BYTE.get(character) or _utf8(character) for character in text)
        return _utf8(text.replace(SPACE, " "))


def read_tokens(metadata: Mapping[str, object], n_rows: int, path: str) -> Tokens:
    """The tokens that a model's metadata describe.

    Args:
        metadata: GGUF keys with plain values.
        n_rows: of its embedding.
        path: of the model.

    Raises:
        TokenizerError: two tokens have one text, or their kinds are not theirs.
    """
    stored = metadata.get(keys.TOKENIZER_TOKENS)
    texts = [text or f"[EMPTY_{row}]" for row, text in enumerate(stored if isinstance(stored, Sequence) else ())]
    if len(set(texts)) != len(texts):
        rows = {text: row for row, text in enumerate(texts)}
        first = next(row for row, text in enumerate(texts) if rows[text] != row)
        raise TokenizerError(
            f"token {texts[first]!r} has ids {first} and {rows[texts[first]]}",
            where=f"{path}: {keys.TOKENIZER_TOKENS}",
        )
    model = str(metadata.get(keys.TOKENIZER_MODEL, ""))
    return Tokens(path, model, n_rows, texts, _kinds(metadata.get(keys.TOKENIZER_TOKEN_TYPE), len(texts), path))


def _kinds(stored: object, n_tokens: int, path: str) -> Sequence[int]:
    if stored is None:
        return [int(TokenKind.NORMAL)] * n_tokens
    kinds: list[int] = np.asarray(stored).reshape(-1).tolist()
    if len(kinds) != n_tokens:
        raise TokenizerError(
            f"{len(kinds)} entries for {n_tokens} tokens", where=f"{path}: {keys.TOKENIZER_TOKEN_TYPE}"
        )
    return kinds


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
