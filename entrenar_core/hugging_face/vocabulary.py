"""The tokens of a tokenizer.json: one for each row of the embedding, and of which kind each is.

GGUF has as many tokens as the embedding has rows, so rows without a token get one that no text spells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from entrenar_core.errors import TokenizerError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.hugging_face.json_object import JsonObject
from entrenar_core.tokenizer.vocabulary import TokenKind

_LOOKS_SPECIAL = (("<|", "|>"), ("<｜", "｜>"))
_PADDING = re.compile(r"\[PAD\d+\]")
_BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class HuggingFaceVocabulary:
    """tokens: text of each row. kinds: TokenKind of each. ids: by text, of those that tokenizer.json has."""

    tokens: list[str]
    kinds: list[int]
    ids: Mapping[str, int]

    def entries(self) -> list[tuple[str, MetadataValue]]:
        """The GGUF keys."""
        return [
            (keys.TOKENIZER_TOKENS, MetadataValue.array(ValueType.STRING, self.tokens)),
            (keys.TOKENIZER_TOKEN_TYPE, MetadataValue.array(ValueType.INT32, self.kinds)),
        ]


def read_vocabulary(tokenizer: JsonObject, n_rows: int) -> HuggingFaceVocabulary:
    """The tokens of a tokenizer.json for an embedding of `n_rows` rows.

    Raises:
        TokenizerError: an id is no row, or that of two tokens.
        FormatError: the file is not what it should be.
    """
    model = tokenizer.object("model")
    ids: dict[str, Any] = model.object("vocab").values_by_key()
    has_bytes = model.flag("byte_fallback", False)
    kinds = {name: TokenKind.BYTE for name in _BYTE_NAMES if has_bytes and name in ids}
    for added in _added_tokens(tokenizer):
        text = added.text("content")
        ids[text] = added.get("id")
        kinds[text] = TokenKind.CONTROL if _is_special(added, text) else TokenKind.USER_DEFINED
    unknown = model.get("unk_token")
    if isinstance(unknown, str):
        kinds[unknown] = TokenKind.UNKNOWN
    tokens = _by_row(ids, n_rows, tokenizer.where)
    return HuggingFaceVocabulary(
        tokens,
        [int(kinds.get(text, TokenKind.NORMAL if text in ids else TokenKind.UNUSED)) for text in tokens],
        ids,
    )


def is_padding(text: str, kind: int) -> bool:
    """Whether a token only fills up a row of the embedding."""
    return kind == TokenKind.UNUSED and _PADDING.fullmatch(text) is not None


def _added_tokens(tokenizer: JsonObject) -> list[JsonObject]:
    where = f"{tokenizer.where}: added_tokens"
    return [JsonObject(entry if isinstance(entry, dict) else {}, where) for entry in tokenizer.items_of("added_tokens")]


def _is_special(added: JsonObject, text: str) -> bool:
    """Some models mark tokens of their templates as plain text; their form tells."""
    looks_so = any(text.startswith(begin) and text.endswith(end) for begin, end in _LOOKS_SPECIAL)
    return added.flag("special", False) or looks_so


def _by_row(ids: Mapping[str, Any], n_rows: int, where: str) -> list[str]:
    """The text of each row; of an empty one what no other token is called."""
    tokens: list[str | None] = [None] * n_rows
    for text, index in ids.items():
        _check_id(text, index, n_rows, where)
        if tokens[index] is not None:
            raise TokenizerError(f"{tokens[index]!r} and {text!r} have the same id, {index}", where=where)
        tokens[index] = text
    spelled = [f"[PAD{index}]" if text is None else text for index, text in enumerate(tokens)]
    if len(set(spelled)) != n_rows:
        raise TokenizerError("a token is called like an empty row, [PAD...]", where=where)
    return spelled


def _check_id(text: str, index: Any, n_rows: int, where: str) -> None:
    if type(index) is not int or index < 0:
        raise TokenizerError(f"the id of {text!r} is {index!r}", where=where)
    if index >= n_rows:
        raise TokenizerError(
            f"the token {text!r} has id {index}, the embedding only {n_rows} rows",
            where=where,
            hint="the tokenizer belongs to another model, or the embedding was not resized for it",
        )
