"""Byte-level BPE: merges by rank inside the parts that the pre type cuts."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.pre_types import PRE_TYPES
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.small import CONTROL, USER_DEFINED, byte_level, spelled

MERGES = ["h e", "l l", "he ll", "Ġ w", "1 2", "12 3", "Ċ Ċ", "hell o"]


@cache
def with_pre_type(pre: str) -> Tokenizer:
    return byte_level(MERGES, pre=pre, bos_token_id=0, add_bos_token=False)


def test_merges_run_in_order_of_rank() -> None:
    assert spelled(byte_level(["a b", "b c"]), "abc") == ["ab", "c"]
    assert spelled(byte_level(["b c", "a b"]), "abc") == ["a", "bc"]


def test_of_a_merge_that_is_listed_twice_the_first_counts() -> None:
    assert spelled(byte_level(["a b", "b c", "a b"]), "abc") == ["ab", "c"]


def test_no_merge_crosses_a_cut_of_the_pre_type() -> None:
    assert spelled(byte_level(["1 2", "12 3"], pre="llama-bpe", add_bos_token=False), "1234") == ["123", "4"]
    assert spelled(byte_level(["1 2", "12 3"], pre="qwen2"), "1234") == ["1", "2", "3", "4"]


def test_a_part_that_is_a_token_needs_no_merges_where_the_pre_type_says_so() -> None:
    merges = ["b c", "a b", "ab c"]
    assert spelled(byte_level(merges, pre="gpt-2"), "abc") == ["a", "bc"]
    assert spelled(byte_level(merges, pre="llama-bpe", add_bos_token=False), "abc") == ["abc"]


def test_bos_and_eos_are_added_on_request_only() -> None:
    tokenizer = byte_level(
        special={"<b>": CONTROL, "<e>": CONTROL},
        bos_token_id=256,
        eos_token_id=257,
        add_bos_token=True,
        add_eos_token=True,
    )
    assert spelled(tokenizer, "a") == ["a"]
    assert spelled(tokenizer, "a", add_special=True) == ["<b>", "a", "<e>"]
    assert tokenizer.encode("", add_special=True) == [256, 257]
    assert tokenizer.encode("") == []


def test_control_tokens_are_found_only_when_special_text_is_parsed() -> None:
    tokenizer = byte_level(special={"<c>": CONTROL, "<u>": USER_DEFINED})
    assert spelled(tokenizer, "a<c><u>") == ["a", "<", "c", ">", "<u>"]
    assert spelled(tokenizer, "a<c><u>", parse_special=True) == ["a", "<c>", "<u>"]


def test_a_batch_is_its_texts_one_by_one() -> None:
    tokenizer = byte_level(MERGES, special={"<u>": USER_DEFINED}, bos_token_id=0, add_bos_token=True)
    texts = ["hello world", "", "<u>", "a<u>b<u>", "12345"]
    for options in ({}, {"add_special": True}, {"parse_special": True}):
        assert tokenizer.encode_batch(texts, **options) == [tokenizer.encode(text, **options) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_half_a_surrogate_pair_is_refused_with_its_place() -> None:
    with pytest.raises(TokenizerError, match=r"U\+D83D, at position 2"):
        byte_level().encode("ab\ud83d")


@pytest.mark.property
@pytest.mark.parametrize("pre", sorted(PRE_TYPES))
@settings(max_examples=15)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_decoding_gives_the_text_back(pre: str, text: str) -> None:
    tokenizer = with_pre_type(pre)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, text]) == [tokenizer.encode(text)] * 2
