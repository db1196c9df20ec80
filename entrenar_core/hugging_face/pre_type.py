"""Which of GGUF's pre-tokenizer types cuts text as a tokenizer.json does.

GGUF names the way, tokenizer.json spells it out, and the same way can be spelled in several. So both cut a text that
holds what they treat differently: digits, contractions, runs of spaces and line ends, marks, scripts. The first type
that cuts all of it in the same places is taken; a tokenizer that no type agrees with is refused.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.pre_types import PRE_TYPES, PreType

_PREFERRED = ("llama-bpe", "qwen2", "gpt-2", "smollm", "smaug-bpe", "deepseek-llm", "deepseek-coder", "deepseek-v3")
_LAST = ("default",)

_WORDS = (
    "Don't DON'T I'dear can'twon'tis you'veil he'llo x'Really "
    "we'll I'M they'Re it's 'tis x'y don’t l'été Straße ÀÉÎ aBcDe HTTPServer camelCase snake_case "
    "naïve Привет МИР ПриВет Ελλάδα שלום مرحبا नमस्ते สวัสดี こんにちは カタカナ 漢字仮名 "
    "中文字符 한국어 e\u0301a\u0300 ǅ ª ʰ"
)
_NUMBERS = "0 12 345 6789 12345 1234567 1,234.50 3.14e-10 a1b22c333 ٣٤٥ ²³ Ⅷ ½ 0x1F 2024-01-02 v1.2.3"
_SYMBOLS = (
    "() [] {} <> != == -> => :: ... !? ?! $5 10% a+b=c #tag @user a/b\\c ~`^|& https://x.y/z?q=1#f _a __b "
    "。、！？“”‘’…—–·•→ 🙂🙂 👩‍🚀 ™ ° € \u3000全角 a。b a，b (word) [word] .word -word 'word \"word"
)
_SPACES = (
    " a  b   c    d     e\tf\t\tg\n h\n\ni\n\n\nj\r\nk \n l  \n  m\n  n\u00a0o \u2009p  \n\n  q!\n r!\n\ns !\n\n"
    "t/\n u//\n\na!\n/b:\r\n//c\n'tis\n'REst\nv\n\t\tw\r\n\r\nx\u200by\u0085z    1  22   (   !  \u3000  \n   "
)
PROBE = "\n".join((_WORDS, _NUMBERS, _SYMBOLS, _SPACES))
"""A text whose cuts tell the types apart."""

_PUBLISHED: dict[str, str] = {
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
"""Expressions that GGUF's readers simplify, so that they cut a little differently from what was published."""


def pre_type_of(pre_tokenizer: Any, *, ignore_merges: bool, where: str) -> str:
    """The name for `tokenizer.ggml.pre`.

    Args:
        pre_tokenizer: that part of a tokenizer.json, parsed.
        ignore_merges: whether a part that is a token as a whole is taken as it is.
        where: the file, for messages.

    Raises:
        TokenizerError: it is broken, or no type cuts in the same way.
    """
    published = _PUBLISHED.get(_only_expression(pre_tokenizer) or "")
    if published is not None:
        return published
    cuts = _cuts_of_json(pre_tokenizer, where)
    found = [name for name in _ordered_names() if _cuts_of(PRE_TYPES[name]) == cuts]
    for name in found:
        if PRE_TYPES[name].ignore_merges == ignore_merges:
            return name
    reason = f"only as {found[0]} does, but with another rule on merges" if found else "in a way of its own"
    raise TokenizerError(
        f"it cuts text {reason}, which has no name in GGUF",
        where=f"{where}: pre_tokenizer",
        hint="convert the model to GGUF with llama.cpp, if that knows it",
    )


def _ordered_names() -> list[str]:
    first = [*_PREFERRED, *(name for name in PRE_TYPES if name not in _PREFERRED)]
    return [*(name for name in first if name not in _LAST), *_LAST]


def _cuts_of_json(pre_tokenizer: Any, where: str) -> list[str]:
    from tokenizers import Tokenizer

    bare = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        parsed = Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"the pre-tokenizer is broken: {error}", where=f"{where}: pre_tokenizer") from error
    return [] if parsed.pre_tokenizer is None else _pieces(parsed.pre_tokenizer)


@cache
def _cuts_of(pre_type: PreType) -> list[str]:
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_type.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _pieces(pre_tokenizers.Sequence([*splits, to_bytes]))


def _pieces(pre_tokenizer: Any) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(PROBE)]


def _only_expression(pre_tokenizer: Any) -> str | None:
    """The expression of a pre-tokenizer that splits by a single one."""
    parts = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    steps = parts if isinstance(parts, list) else []
    splits = [part for part in steps if isinstance(part, dict) and part.get("type") == "Split"]
    pattern = splits[0].get("pattern") if len(splits) == 1 else None
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    return expression if isinstance(expression, str) else None
