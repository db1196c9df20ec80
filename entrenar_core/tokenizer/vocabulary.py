"""The vocabulary a GGUF describes: checked arrays, special ids and rules, before any text is looked at.

`read_vocabulary` turns `tokenizer.*` metadata into a `Vocabulary` or raises a TokenizerError that names file and key.
The kinds of some tokens are corrected by their well-known names (`special_names.py`), as llama.cpp does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import TokenizerError

PREFIX = "tokenizer.ggml."


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and the rules that go with them.

    Attributes:
        source: the file, for messages.
        tokens: V texts, as stored (byte-level or with U+2581 for a space).
        ids: text -> id.
        kinds: uint8 [V], TokenKind.
        bos_id, eos_id, pad_id, unknown_id: None where the file has none.
        add_bos, add_eos: what `add_special` adds.
        stop_ids: ids that end a generation.
        strip_right: ids that swallow white space to their right.
    """

    source: str
    tokens: Sequence[str]
    ids: Mapping[str, int]
    kinds: npt.NDArray[np.uint8]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unknown_id: int | None
    add_bos: bool
    add_eos: bool
    stop_ids: frozenset[int]
    strip_right: frozenset[int]


class MetadataReader:
    """Typed access to `tokenizer.ggml.*`; every complaint names the file and the key."""

    def __init__(self, metadata: Mapping[str, object], source: str) -> None:
        self._metadata = metadata
        self.source = source

    def error(self, key: str, message: str, hint: str | None = None) -> TokenizerError:
        return TokenizerError(message, where=f"{self.source}: {PREFIX}{key}", hint=hint)

    def has(self, key: str) -> bool:
        return PREFIX + key in self._metadata

    def model_name(self) -> str:
        """`general.name`, lower case; empty where there is none."""
        return str(self._metadata.get("general.name", "")).lower()

    def string(self, key: str) -> str:
        value = self._required(key)
        if not isinstance(value, str):
            raise self.error(key, f"expected a string, found {type(value).__name__}")
        return value

    def strings(self, key: str) -> list[str]:
        value = self._required(key)
        if isinstance(value, np.ndarray) and value.size == 0:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"expected an array of strings, found {type(value).__name__}")
        return value

    def numbers(self, key: str, length: int) -> npt.NDArray[np.generic]:
        """A numeric array of exactly `length` entries."""
        value = self._required(key)
        array = np.asarray(value)
        if array.ndim != 1 or array.dtype.kind not in "iuf":
            raise self.error(key, f"expected an array of numbers, found {type(value).__name__}")
        if len(array) != length:
            raise self.error(key, f"{len(array)} entries for {length} tokens")
        return array

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(PREFIX + key, default)
        if not isinstance(value, bool | np.bool_):
            raise self.error(key, f"expected true or false, found {value!r}")
        return bool(value)

    def token_id(self, key: str, n_tokens: int, default: int | None = None) -> int | None:
        if not self.has(key):
            return default if default is not None and default < n_tokens else None
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(key, f"expected a token id, found {value!r}")
        if not 0 <= int(value) < n_tokens:
            raise self.error(key, f"token id {int(value)} is outside the vocabulary of {n_tokens} tokens")
        return int(value)

    def _required(self, key: str) -> object:
        if not self.has(key):
            raise self.error(key, "the key is missing", hint="the file describes no usable tokenizer; convert it again")
        return self._metadata[PREFIX + key]


def read_tokens(reader: MetadataReader) -> tuple[list[str], dict[str, int]]:
    """The token texts and their ids; a doubled text is an error, an empty one is named `[EMPTY_7]` as in llama.cpp."""
    tokens = reader.strings("tokens")
    if not tokens:
        raise reader.error("tokens", "the vocabulary is empty")
    if "" in tokens:
        tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(tokens)]
    ids = {text: index for index, text in enumerate(tokens)}
    if len(ids) != len(tokens):
        doubled = next(text for index, text in enumerate(tokens) if ids[text] != index)
        raise reader.error("tokens", f"token {doubled!r} has ids {tokens.index(doubled)} and {ids[doubled]}")
    return tokens, ids


def read_kinds(reader: MetadataReader, n_tokens: int) -> npt.NDArray[np.uint8]:
    """uint8 [V]; all normal where the file does not say."""
    if not reader.has("token_type"):
        return np.full(n_tokens, TokenKind.NORMAL, dtype=np.uint8)
    kinds = reader.numbers("token_type", n_tokens)
    known = np.isin(kinds, [int(kind) for kind in TokenKind])
    if not known.all():
        index = int(np.argmin(known))
        raise reader.error("token_type", f"token {index} has type {kinds[index]}, which is unknown", hint="0 to 6")
    return kinds.astype(np.uint8)
