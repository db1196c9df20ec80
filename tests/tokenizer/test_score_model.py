"""SentencePiece by scores: the best score merges first, the leftmost of equals; unknown characters become bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.tokenizer.spm_merge import merge_by_score
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.small import CONTROL, USER_DEFINED, by_score, spelled

LETTERS = {"a": -90.0, "b": -91.0, "c": -92.0, "▁": -93.0}


def test_the_best_score_merges_first() -> None:
    assert spelled(by_score({**LETTERS, "ab": -1.0, "bc": -2.0}, add_space_prefix=False), "abc") == ["ab", "c"]
    assert spelled(by_score({**LETTERS, "ab": -2.0, "bc": -1.0}, add_space_prefix=False), "abc") == ["a", "bc"]


def test_of_equal_scores_the_leftmost_merges_first() -> None:
    tokenizer = by_score({**LETTERS, "ba": -1.0, "ab": -1.0}, add_space_prefix=False)
    assert spelled(tokenizer, "aba") == ["ab", "a"]
    assert spelled(tokenizer, "bab") == ["ba", "b"]


def test_a_run_is_merged_from_the_left() -> None:
    tokenizer = by_score({**LETTERS, "aa": -1.0, "aaa": -2.0}, add_space_prefix=False)
    assert spelled(tokenizer, "aaaaa") == ["aa", "aaa"]


def test_a_character_without_a_token_becomes_its_bytes() -> None:
    assert spelled(by_score(LETTERS, add_space_prefix=False), "aé\n") == ["a", "<0xC3>", "<0xA9>", "<0x0A>"]


def test_a_piece_may_hold_a_character_that_is_no_token_itself() -> None:
    tokenizer = by_score({"a": -5.0, "aé": -1.0}, add_space_prefix=False)
    assert spelled(tokenizer, "aé") == ["aé"]
    assert spelled(tokenizer, "é") == ["<0xC3>", "<0xA9>"]


def test_a_text_starts_with_a_space_unless_the_file_forbids_it() -> None:
    pieces = {**LETTERS, "▁a": -1.0}
    assert spelled(by_score(pieces), "a a") == ["▁a", "▁a"]
    assert spelled(by_score(pieces, add_space_prefix=False), "a a") == ["a", "▁a"]


def test_text_that_continues_other_text_gets_no_space_in_front() -> None:
    tokenizer = by_score({"a": 0.0, "▁": 0.0, "▁a": -1.0})
    assert spelled(tokenizer, "a", continues=False) == ["▁a"]
    assert spelled(tokenizer, "a", continues=True) == ["a"]


def test_the_space_is_added_after_every_special_token_too() -> None:
    tokenizer = by_score({**LETTERS, "▁a": -1.0}, special={"<u>": USER_DEFINED})
    assert spelled(tokenizer, "a<u>a") == ["▁a", "<u>", "▁a"]
    assert tokenizer.encode("") == []


def test_special_text_stays_text_unless_it_is_parsed() -> None:
    tokenizer = by_score({**LETTERS, "<": -8.0, "s": -9.0, ">": -10.0, "s>": -1.0}, add_space_prefix=False)
    assert spelled(tokenizer, "<s>") == ["<", "s>"]
    assert spelled(tokenizer, "<s>", parse_special=True) == ["<s>"]


def test_decoding_takes_the_added_space_away_and_no_other() -> None:
    tokenizer = by_score({**LETTERS, "▁a": -1.0}, special={"<c>": CONTROL})
    for text in ("a", " a", "  a a ", "é a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("<c>a", parse_special=True)) == "a"
    unprefixed = by_score(LETTERS, add_space_prefix=False)
    assert unprefixed.decode(unprefixed.encode(" a")) == " a"


def scored_alone(tokenizer: Tokenizer, pieces: Mapping[str, float], text: str) -> list[int]:
    """The ids by the plain rule, without ranks."""
    ids: list[int] = []
    for part in merge_by_score(text, pieces):
        found = tokenizer.token_id(part)
        ids += [found] if found is not None else [3 + byte for byte in part.encode()]
    return ids


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, float]:
    """Pieces over a few letters, glued from one another, with or without equal scores."""
    made = list(draw(st.sampled_from(["ab", "ab▁", "abc", "a▁"])))
    for _ in range(draw(st.integers(1, 14))):
        text = draw(st.sampled_from(made)) + draw(st.sampled_from(made))
        if len(text) < 9 and text not in made:
            made.append(text)
    if draw(st.booleans()):
        scores = [float(-rank) for rank in draw(st.permutations(range(len(made))))]
    else:
        scores = [float(-draw(st.integers(0, 5))) for _ in made]
    return dict(zip(made, scores, strict=True))


@pytest.mark.property
@given(pieces=vocabularies(), data=st.data())
def test_ranked_merges_give_what_scores_give(pieces: dict[str, float], data: st.DataObject) -> None:
    tokenizer = by_score(pieces, add_space_prefix=False)
    for text in data.draw(st.lists(st.text("ab▁c", min_size=1, max_size=24), min_size=5, max_size=5)):
        assert tokenizer.encode(text) == scored_alone(tokenizer, pieces, text)


@pytest.mark.property
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁"), max_size=40))
def test_decoding_gives_the_text_back(text: str) -> None:
    tokenizer = by_score({**LETTERS, "ab": -1.0, "▁a": -2.0, "▁▁": -3.0})
    assert tokenizer.decode(tokenizer.encode(text)) == text
