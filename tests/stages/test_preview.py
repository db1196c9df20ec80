"""An example turned back into text shows what is trained, token by token."""

from __future__ import annotations

from entrenar_core.stages.preview import Segment, segments_of
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.stages.tiny_base import tokenizer_entries


def tokenizer() -> Tokenizer:
    return tokenizer_from_metadata({key: value.plain for key, value in tokenizer_entries()}, "test")


def test_neighbours_of_one_kind_are_one_segment() -> None:
    words = tokenizer()
    prompt, answer = words.encode("Ada saw a ball."), words.encode(" It was hers.")
    flags = [False] * len(prompt) + [True] * len(answer)
    assert segments_of(prompt + answer, flags, words) == (
        Segment("Ada saw a ball.", False),
        Segment(" It was hers.", True),
    )


def test_control_tokens_are_segments_of_their_own_and_keep_their_flag() -> None:
    words = tokenizer()
    assert words.eos_id is not None
    ids = [*words.encode("Ada"), words.eos_id, words.eos_id]
    flags = [False] * (len(ids) - 2) + [False, True]
    assert segments_of(ids, flags, words)[1:] == (
        Segment("<|endoftext|>", False, is_special=True),
        Segment("<|endoftext|>", True, is_special=True),
    )


def test_a_character_of_several_tokens_stays_whole() -> None:
    words = tokenizer()
    ids = words.encode("日本")
    assert len(ids) > 2
    assert segments_of(ids, [True] * len(ids), words) == (Segment("日本", True),)


def test_a_character_that_is_cut_by_the_mask_is_shown_as_broken() -> None:
    words = tokenizer()
    ids = words.encode("日")
    first, second = segments_of(ids, [False] + [True] * (len(ids) - 1), words)
    assert "\ufffd" in first.text
    assert "\ufffd" in second.text
