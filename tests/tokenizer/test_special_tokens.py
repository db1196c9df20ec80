"""Which tokens are special, which end a generation, and how they are cut out of text."""

from __future__ import annotations

import pytest

from tests.tokenizer.small import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, by_score, byte_level, spelled


def stops(special: dict[str, int], **keys: object) -> set[str]:
    tokenizer = byte_level(special=special, **keys)
    return {tokenizer.token_text(token_id) for token_id in tokenizer.stop_ids}


@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "<|endoftext|>", "<|file_sep|>"])
def test_a_well_known_end_stops_and_is_control_whatever_its_type(name: str) -> None:
    for kind in (NORMAL, USER_DEFINED, CONTROL):
        assert stops({name: kind}) == {name}
        assert spelled(byte_level(special={name: kind}), name) == list(name)


def test_stated_ids_stop() -> None:
    special = {"<x>": CONTROL, "<y>": CONTROL, "<z>": CONTROL, "<w>": CONTROL}
    assert stops(special, eos_token_id=256, eot_token_id=257, eom_token_id=258) == {"<x>", "<y>", "<z>"}


def test_a_message_end_is_no_turn_end_where_calls_and_returns_exist() -> None:
    special = {"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": CONTROL}
    assert stops({"<|end|>": CONTROL}) == {"<|end|>"}
    assert stops(special) == {"<|return|>", "<|call|>"}
    assert spelled(byte_level(special=special), "<|end|>") == ["<|end|>"]


def test_s_is_text_where_tool_responses_exist() -> None:
    assert stops({"</s>": CONTROL, "<|tool_response>": CONTROL}) == {"<|tool_response>"}


def test_channel_markers_are_always_shown() -> None:
    tokenizer = byte_level(special={"<|channel|>": CONTROL})
    assert tokenizer.decode([256]) == "<|channel|>"


def test_a_stated_role_leaves_the_names_of_the_role_alone() -> None:
    special = {"<fim_pad>": USER_DEFINED, "<pad>": CONTROL}
    assert stops(special) == {"<fim_pad>"}
    assert stops(special, fim_pad_token_id=257) == {"<pad>"}


def test_the_longest_token_is_cut_out_first() -> None:
    tokenizer = byte_level(special={"ab": USER_DEFINED, "bcd": USER_DEFINED})
    assert spelled(tokenizer, "abcdab") == ["a", "bcd", "ab"]


def test_unknown_tokens_are_special_text() -> None:
    tokenizer = byte_level(special={"[PAD]1": UNKNOWN})
    assert spelled(tokenizer, "[PAD]1", parse_special=True) == ["[PAD]1"]
    assert spelled(tokenizer, "[PAD]1") == list("[PAD]1")
    assert tokenizer.decode([256]) == ""
    assert tokenizer.decode([256], skip_special=False) == "[PAD]1"


def test_a_user_defined_token_that_shares_its_beginning_with_another_is_found() -> None:
    tokenizer = byte_level(special={"<a>": USER_DEFINED, "<ab>": USER_DEFINED, "[x]": USER_DEFINED})
    assert spelled(tokenizer, "<<ab>[x]<a") == ["<", "<ab>", "[x]", "<", "a"]


def test_white_space_is_kept_after_special_tokens_of_other_models() -> None:
    tokenizer = by_score({"a": -1.0, "▁": -2.0}, special={"<|user|>": CONTROL})
    assert spelled(tokenizer, "<|user|> a", parse_special=True) == ["<|user|>", "▁", "▁", "a"]
