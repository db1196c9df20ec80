"""Ids to text, at once and as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import TokenizerError
from tests.tokenizer.small import CONTROL, USER_DEFINED, by_score, byte_level

TOKENIZER = byte_level(["h e"], special={"<c>": CONTROL, "<ü>": USER_DEFINED})


def test_control_tokens_are_left_out_on_request() -> None:
    ids = [257, *TOKENIZER.encode("he"), 258]
    assert TOKENIZER.decode(ids) == "he<ü>"
    assert TOKENIZER.decode(ids, skip_special=False) == "<c>he<ü>"


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    for token_id in (-1, TOKENIZER.vocab_size):
        with pytest.raises(TokenizerError, match=f"token id {token_id} is outside the vocabulary of 259 tokens"):
            TOKENIZER.decode([token_id])


def test_an_unfinished_character_is_held_back() -> None:
    decoder = TOKENIZER.stream_decoder()
    assert [decoder.push(token_id) for token_id in TOKENIZER.encode("é😀a")] == ["", "é", "", "", "", "😀", "a"]
    assert decoder.finish() == ""


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    ids = TOKENIZER.encode("😀")[:2]
    decoder = TOKENIZER.stream_decoder()
    assert [decoder.push(token_id) for token_id in ids] == ["", ""]
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"
    assert TOKENIZER.decode([*ids, *TOKENIZER.encode("a")]) == "\N{REPLACEMENT CHARACTER}a"


def test_a_continuation_keeps_its_leading_space() -> None:
    tokenizer = by_score({"a": -1.0, "▁": -3.0, "▁a": -2.0})
    ids = tokenizer.encode("a")
    assert "".join(map(tokenizer.stream_decoder().push, ids)) == " a"
    assert "".join(map(tokenizer.stream_decoder(at_start=True).push, ids)) == "a"


def test_text_and_id_of_a_token_can_be_looked_up() -> None:
    assert TOKENIZER.token_text(257) == "<c>"
    assert TOKENIZER.token_id("<c>") == 257
    assert TOKENIZER.token_id("<d>") is None


@pytest.mark.property
@given(ids=st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30))
def test_a_stream_is_what_decoding_at_once_gives(ids: list[int]) -> None:
    decoder = TOKENIZER.stream_decoder(at_start=True)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == TOKENIZER.decode(ids)
