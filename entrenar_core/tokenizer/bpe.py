"""Byte-level BPE (`tokenizer.ggml.model = gpt2`) as a `tokenizers.Tokenizer`.

Text is cut by the expressions of the pre type, its UTF-8 bytes are written as printable characters, merges run inside
each part. Special tokens never reach this model: `special_split.py` has cut them out before.
"""

from __future__ import annotations

from typing import Any

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.pre_types import PreType, pre_type_named
from entrenar_core.tokenizer.vocabulary import MetadataReader, TokenKind, Vocabulary


def _printable_bytes() -> dict[int, str]:
    """The character that stands for each byte (GPT-2's table): itself where printable, else one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(0x100 + index) for index, byte in enumerate(hidden)})
    return table


BYTE_TO_CHARACTER = _printable_bytes()
CHARACTER_TO_BYTE = {character: bytes([byte]) for byte, character in BYTE_TO_CHARACTER.items()}


class ByteLevelModel:
    """Text to ids and ids to bytes for a byte-level vocabulary.

    Attributes:
        rust: the `tokenizers.Tokenizer`; it knows no special tokens.
    """

    def __init__(self, vocabulary: Vocabulary, merges: list[tuple[str, str]], pre_type: PreType) -> None:
        self._vocabulary = vocabulary
        present = {byte for byte, character in BYTE_TO_CHARACTER.items() if character in vocabulary.ids}
        self._present = None if len(present) == 256 else bytes(sorted(present))
        self.rust = _build_rust(vocabulary, merges, pre_type)

    def prepared(self, text: str, *, after_special: bool) -> str:
        """`text` as it is."""
        return text

    def jobs(self, text: str) -> list[str | list[int]]:
        """What the Rust tokenizer has to encode."""
        if self._present is not None and (missing := text.encode().translate(None, self._present)):
            raise TokenizerError(
                f"no token for byte 0x{missing[0]:02X} in {text[:40]!r}", where=f"{self._vocabulary.source}: tokenizer"
            )
        return [text]

    def covered_bytes(self, token_id: int) -> int:
        """Bytes of a prepared text that a token stands for: each of its characters is one."""
        return len(self._vocabulary.tokens[token_id])

    def token_bytes(self, token_id: int) -> bytes:
        """The text of a token as UTF-8 bytes, possibly part of a character."""
        text = self._vocabulary.tokens[token_id]
        kind = self._vocabulary.kinds[token_id]
        if kind == TokenKind.BYTE:
            return byte_of_token(text, self._vocabulary.source)
        if kind != TokenKind.NORMAL:
            return text.encode("utf-8", "surrogateescape")
        return b"".join(CHARACTER_TO_BYTE.get(c) or c.encode("utf-8", "surrogateescape") for c in text)


def byte_of_token(text: str, source: str) -> bytes:
    """The byte that `<0x0A>` stands for."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    raise TokenizerError(f"byte token {text!r} is not of the form <0x0A>", where=f"{source}: tokenizer.ggml.tokens")


def build_byte_level(reader: MetadataReader, vocabulary: Vocabulary) -> ByteLevelModel:
    """Read merges and pre type and build the model; TokenizerError where they do not fit the tokens."""
    pre_type = pre_type_named(read_pre(reader), reader.source)
    return ByteLevelModel(vocabulary, _read_merges(reader, vocabulary), pre_type)


def read_pre(reader: MetadataReader) -> str:
    """`tokenizer.ggml.pre`; a file without it gets an error, since a wrong split is silent."""
    if not reader.has("pre"):
        raise reader.error(
            "pre", "the key is missing, so it is not known how text is split", hint="convert the model again"
        )
    return reader.string("pre")


def _read_merges(reader: MetadataReader, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs in rank order, each once."""
    merges = reader.strings("merges")
    ids = vocabulary.ids
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    for index, (left, right) in enumerate(pairs):
        if left not in ids or right not in ids or left + right not in ids:
            missing = next(part for part in (left, right, left + right) if part not in ids)
            raise reader.error("merges", f"merge {index}, {merges[index]!r}, needs {missing!r}, which is no token")
    return list(dict.fromkeys(pairs))


def _build_rust(vocabulary: Vocabulary, merges: list[tuple[str, str]], pre_type: PreType) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(encodable_ids(vocabulary), merges, ignore_merges=pre_type.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_type.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    return tokenizer


def encodable_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Text -> id for Rust, which takes only valid UTF-8; a token that is not gets a name that no text can spell."""
    try:
        "".join(vocabulary.tokens).encode()
    except UnicodeEncodeError:
        return {_valid_text(text, index): index for text, index in vocabulary.ids.items()}
    return dict(vocabulary.ids)


def _valid_text(text: str, index: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"\0<bytes of token {index}>"
    return text
