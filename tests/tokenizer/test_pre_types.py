"""Where each family of pre types cuts; that all of them cut as llama.cpp does is tested in tests/oracle."""

from __future__ import annotations

import pytest
from tokenizers import Regex, pre_tokenizers

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.pre_types import PRE_TYPES, pre_type_named


def cut(pre: str, text: str) -> list[str]:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TYPES[pre].patterns]
    return [part for part, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "parts"),
    [
        ("gpt-2", ["I", "'ll", " pay", " 1234", "  ", " EUR", "!!", "\n", "\n", "OK"]),
        ("starcoder", ["I", "'ll", " pay", " ", "1", "2", "3", "4", "  ", " EUR", "!!", "\n", "\n", "OK"]),
        ("llama-bpe", ["I", "'ll", " pay", " ", "123", "4", "  ", " EUR", "!!\n\n", "OK"]),
        ("qwen2", ["I", "'ll", " pay", " ", "1", "2", "3", "4", "  ", " EUR", "!!\n\n", "OK"]),
        ("gpt-4o", ["I'll", " pay", " ", "123", "4", "  ", " EUR", "!!\n\n", "OK"]),
        ("deepseek-coder", ["I", "'", "ll", " pay", " ", "1", "2", "3", "4", "  ", " EUR", "!!", "\n", "\n", "OK"]),
        ("deepseek-v3", ["I", "'ll", " pay", " ", "123", "4", "  ", " EUR", "!!\n\n", "OK"]),
        ("superbpe", ["I'll pay ", "1", "234", "   EUR!!\n\nOK"]),
        ("bloom", ["I'll", " pay", " 1234", "  ", " EUR", "!!\n\n", "OK"]),
    ],
)
def test_a_sentence_is_cut(pre: str, parts: list[str]) -> None:
    text = "I'll pay 1234   EUR!!\n\nOK"
    assert "".join(parts) == text
    assert cut(pre, text) == parts


def test_case_matters_for_contractions_of_gpt_2_only() -> None:
    assert cut("gpt-2", "IT'S") == ["IT", "'", "S"]
    assert cut("llama-bpe", "IT'S") == ["IT", "'S"]


def test_combining_marks_stay_with_their_letter_in_qwen35() -> None:
    assert cut("qwen35", "हिन्दी") == ["हिन्दी"]
    assert len(cut("qwen2", "हिन्दी")) > 1


def test_names_of_one_family_cut_alike() -> None:
    assert pre_type_named("llama3", "x") == pre_type_named("llama-bpe", "x")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(TokenizerError, match="unknown pre-tokenizer type 'nope'"):
        pre_type_named("nope", "model.gguf")
