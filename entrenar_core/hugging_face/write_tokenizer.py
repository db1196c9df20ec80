"""tokenizer.json and tokenizer_config.json of the tokenizer that GGUF's keys describe.

What GGUF names, tokenizer.json spells out: the expressions of a pre type, the merges that scores stand for, the tokens
that are put in front of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.errors import TokenizerError
from entrenar_core.gguf import keys
from entrenar_core.hugging_face.special_tokens import ROLES
from entrenar_core.hugging_face.vocabulary import is_padding
from entrenar_core.tokenizer.pre_types import PreType, pre_type_named
from entrenar_core.tokenizer.spm import MERGEABLE, SPACE, merges_of_scores
from entrenar_core.tokenizer.vocabulary import TokenKind

_ADDED = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)
_SPECIAL = (TokenKind.CONTROL, TokenKind.UNKNOWN)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@dataclass(frozen=True)
class _Described:
    """The keys of a tokenizer and the file they are from."""

    metadata: Mapping[str, Any]
    where: str

    @property
    def tokens(self) -> Sequence[str]:
        tokens: Sequence[str] = self.metadata[keys.TOKENIZER_TOKENS]
        return tokens

    @property
    def kinds(self) -> list[int]:
        given = self.metadata.get(keys.TOKENIZER_TOKEN_TYPE)
        return [int(TokenKind.NORMAL)] * len(self.tokens) if given is None else np.asarray(given).tolist()

    @property
    def vocabulary(self) -> dict[str, int]:
        """Without tokens that stand for nothing."""
        return {
            text: index
            for index, (text, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if not is_padding(text, kind)
        }

    def id_of(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return None if value is None else int(value)

    def text_of(self, key: str) -> str | None:
        index = self.id_of(key)
        return None if index is None else self.tokens[index]

    def adds(self, key: str, default: bool) -> bool:
        return bool(self.metadata.get(key, default))


def tokenizer_json(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What tokenizer.json has to say.

    Args:
        metadata: GGUF keys and values of a tokenizer that ours can be built from.
        where: the file, for messages.

    Raises:
        TokenizerError: it is of a kind, or has tokens, that tokenizer.json cannot hold.
    """
    known = _Described(metadata, where)
    _check_texts(known)
    kind = metadata.get(keys.TOKENIZER_MODEL)
    if kind not in ("gpt2", "llama"):
        raise TokenizerError(f"tokenizers of kind {kind!r} cannot be written as tokenizer.json", where=where)
    parts, adds_bos = _byte_level(known) if kind == "gpt2" else (_by_score(known), True)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(known),
        "post_processor": _frame(known, adds_bos=adds_bos),
        **parts,
    }


def tokenizer_config_json(metadata: Mapping[str, Any], context_length: int) -> dict[str, Any]:
    """What tokenizer_config.json has to say. `context_length`: of the model."""
    known = _Described(metadata, "")
    named = {f"{role}_token": known.text_of(key) for role, key in ROLES.items()}
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **{name: text for name, text in named.items() if text is not None},
    }
    templates = _chat_templates(metadata)
    if templates:
        settings["chat_template"] = templates
    return settings


def _check_texts(known: _Described) -> None:
    for index, text in enumerate(known.tokens):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"token {index} is no valid text, which tokenizer.json cannot hold",
                where=known.where,
                hint="write GGUF",
            ) from error


def _byte_level(known: _Described) -> tuple[dict[str, Any], bool]:
    """The parts of a byte-level tokenizer, and whether it begins texts with BOS where the file does not say."""
    pre_type: PreType = pre_type_named(str(known.metadata.get(keys.TOKENIZER_PRE)), known.where)
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre_type.patterns
    ]
    parts = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _BYTE_LEVEL]},
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre_type.ignore_merges,
            "vocab": known.vocabulary,
            "merges": list(known.metadata.get(keys.TOKENIZER_MERGES, [])),
        },
    }
    return parts, pre_type.adds_bos


def _by_score(known: _Described) -> dict[str, Any]:
    scores = np.asarray(known.metadata[keys.TOKENIZER_SCORES], np.float64).tolist()
    vocabulary = known.vocabulary
    mergeable = {
        text: score
        for text, score, kind in zip(known.tokens, scores, known.kinds, strict=True)
        if kind in MERGEABLE and text in vocabulary
    }
    prefix = known.adds(keys.TOKENIZER_ADD_SPACE_PREFIX, True)
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    from_mark = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*([{"type": "Prepend", "prepend": SPACE}] if prefix else []), to_mark],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [from_mark, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": known.text_of(keys.TOKENIZER_UNKNOWN_ID),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [" ".join(pair) for pair in merges_of_scores(mergeable)],
        },
    }


def _added_tokens(known: _Described) -> list[dict[str, Any]]:
    rules = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": text, **rules, "special": kind in _SPECIAL}
        for index, (text, kind) in enumerate(zip(known.tokens, known.kinds, strict=True))
        if kind in _ADDED
    ]


def _frame(known: _Described, *, adds_bos: bool) -> dict[str, Any] | None:
    """The template that puts BOS in front of a text and EOS after it."""
    begins = [keys.TOKENIZER_BOS_ID] if known.adds(keys.TOKENIZER_ADD_BOS, adds_bos) else []
    ends = [keys.TOKENIZER_EOS_ID] if known.adds(keys.TOKENIZER_ADD_EOS, False) else []
    names = {str(known.text_of(key)): known.id_of(key) for key in (*begins, *ends) if known.id_of(key) is not None}
    if not names:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": known.text_of(key), "type_id": type_id}} for key in part if known.text_of(key)]
            for part in (begins, ends)
        )
        return [*before, {"Sequence": {"id": sequence, "type_id": type_id}}, *after]

    special = {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in names.items()}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": special,
    }


def _chat_templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    plain = metadata.get(keys.CHAT_TEMPLATE)
    named = {str(name): metadata.get(keys.chat_template_key(name)) for name in metadata.get(keys.CHAT_TEMPLATES, [])}
    texts = {name: str(text) for name, text in {"default": plain, **named}.items() if text is not None}
    if list(texts) == ["default"]:
        return texts["default"]
    return [{"name": name, "template": text} for name, text in texts.items()] or None
