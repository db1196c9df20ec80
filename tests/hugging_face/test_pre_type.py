"""The name of the way in which a tokenizer.json cuts text, found by cutting."""

from __future__ import annotations

from typing import Any

import pytest

from entrenar_core.errors import TokenizerError
from entrenar_core.hugging_face.pre_type import pre_type_of
from entrenar_core.tokenizer.pre_types import PRE_TYPES

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(*expressions: str) -> dict[str, Any]:
    """As published models spell it: one Split for each expression, then bytes."""
    splits = [
        {"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False} for one in expressions
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, {**BYTE_LEVEL, "use_regex": False}]}


def digits_apart() -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignore_merges", "name"),
    [
        (BYTE_LEVEL, False, "gpt-2"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "smaug-bpe"),
        (split(QWEN2), False, "qwen2"),
        (digits_apart(), False, "smollm"),
        (split(TEKKEN), True, "tekken"),
    ],
)
def test_published_tokenizers_have_their_names(pre_tokenizer: dict[str, Any], ignore_merges: bool, name: str) -> None:
    assert pre_type_of(pre_tokenizer, ignore_merges=ignore_merges, where="t") == name


@pytest.mark.parametrize("name", sorted(PRE_TYPES))
def test_every_type_is_found_by_its_expressions(name: str) -> None:
    """Types with equal rules are one; the probe tells all others apart."""
    rules = PRE_TYPES[name]
    found = PRE_TYPES[pre_type_of(split(*rules.patterns), ignore_merges=rules.ignore_merges, where="t")]
    if name not in ("bailingmoe", "bailingmoe2", "llada-moe"):  # qwen2 in other words
        assert found.patterns == rules.patterns
    assert found.ignore_merges == rules.ignore_merges


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignore_merges", "said"),
    [
        ({**BYTE_LEVEL, "add_prefix_space": True}, False, "it cuts text in a way of its own"),
        (split(LLAMA3.replace(r"\r\n]*", r"\r\n/]*")), True, "it cuts text in a way of its own"),
        (split(QWEN2), True, "it cuts text only as qwen2 does, but with another rule on merges"),
        (None, False, "it cuts text in a way of its own"),
        ({"type": "Whitespace"}, False, "it cuts text in a way of its own"),
        ({"type": "Nonsense"}, False, "the pre-tokenizer is broken"),
        (split("("), False, "the pre-tokenizer is broken"),
        ([1, 2], False, "the pre-tokenizer is broken"),
    ],
)
def test_another_way_is_refused(pre_tokenizer: Any, ignore_merges: bool, said: str) -> None:
    with pytest.raises(TokenizerError, match=said) as caught:
        pre_type_of(pre_tokenizer, ignore_merges=ignore_merges, where="t.json")
    assert caught.value.where == "t.json: pre_tokenizer"
