"""Answers: what a regex finds, which are equal, and texts that end where they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import ConfigError
from entrenar_core.evaluation.answers import (
    Answer,
    AnswerPattern,
    generate_answers,
    is_same_answer,
    judge_answers,
)
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Sampling
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.model.tiny import build, lively_weights
from tests.stages.tiny_base import base_spec, tokenizer_entries

GSM8K = "#### (-?[0-9.,]+)"


def tokenizer() -> Tokenizer:
    return tokenizer_from_metadata({key: value.plain for key, value in tokenizer_entries()}, "tiny")


# finding


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### 1\nno, wait\n#### -2,000.", "-2,000."),
        ("the answer is 7", None),
        ("####7", None),
        ("", None),
    ],
)
def test_the_last_match_counts(text: str, found: str | None) -> None:
    assert AnswerPattern(GSM8K).find(text) == found


def test_without_a_regex_the_text_is_the_answer() -> None:
    assert AnswerPattern(None).find(" yes\n") == "yes"


def test_a_group_that_took_no_part_finds_nothing() -> None:
    pattern = AnswerPattern(r"answer(?: is (\d+))?")
    assert pattern.find("the answer is 3, the answer") == "3"
    assert pattern.find("the answer") is None


@pytest.mark.parametrize(
    ("regex", "message"),
    [("#### [0-9]+", "has no group"), (r"(a)(b)", "has 2 groups"), ("#### ([0-9", "is broken"), ("(?:x)", "no group")],
)
def test_a_regex_has_one_group(regex: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        AnswerPattern(regex)
    assert caught.value.where == "--regex"


# comparing


@pytest.mark.parametrize(
    ("a", "b"),
    [("1,234", "1234"), ("18.", "18"), ("18.00", "18"), ("-0.5", "-.5"), (" yes ", "yes"), ("1,000,000.", "1000000.0")],
)
def test_numbers_are_equal_by_value_and_texts_without_spaces_around(a: str, b: str) -> None:
    assert is_same_answer(a, b)
    assert is_same_answer(b, a)


@pytest.mark.parametrize(
    ("a", "b"), [("1.5", "15"), ("yes", "Yes"), ("", "0"), ("nan", "inf"), (".", "0"), ("-3", "3")]
)
def test_other_answers_are_not(a: str, b: str) -> None:
    assert not is_same_answer(a, b)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_however_they_are_written(a: int, b: int) -> None:
    assert is_same_answer(f"{a:,}", str(b)) is (a == b)


# generating


def model() -> LanguageModel:
    return build(base_spec(), lively_weights(base_spec()), trainable=False)


PROMPTS = ("Ada saw a red ball.", "Bo", "It was Cleo's old key.", "Dan saw a green lamp. It was Dan's")


def answers(stop: Sequence[str] = (), prompts: Sequence[str] = PROMPTS, **options: Any) -> list[Answer]:
    wanted = {"max_tokens": 20, "sampling": Sampling(), "batch_size": 4} | options
    words = tokenizer()
    return generate_answers(model(), words, [words.encode(one) for one in prompts], stop=stop, **wanted)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9, seed=4)], ids=["greedy", "drawn"])
def test_answers_do_not_depend_on_the_batch(sampling: Sampling) -> None:
    done: list[int] = []
    apart = answers(sampling=sampling, batch_size=1, progress=done.append)
    assert apart == answers(sampling=sampling, batch_size=3)
    assert done == [1, 2, 3, 4]


def test_a_text_ends_an_answer_and_is_no_part_of_it() -> None:
    """Texts of every length inside of what would be written freely, so also some that several tokens make up."""
    (free,) = answers(prompts=PROMPTS[:1])
    assert not free.is_finished
    for begin, end in ((3, 4), (5, 9), (2, 12)):
        stop = free.text[begin:end]
        (cut,) = answers([stop, "never written"], prompts=PROMPTS[:1])
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.is_finished
        assert cut.n_tokens < free.n_tokens


def test_the_first_of_several_texts_ends_it() -> None:
    (free,) = answers(prompts=PROMPTS[:1])
    (cut,) = answers([free.text[8:10], free.text[2:4]], prompts=PROMPTS[:1])
    assert len(cut.text) <= 2


def test_an_answer_that_reaches_the_most_tokens_is_not_finished() -> None:
    assert [(one.n_tokens, one.is_finished) for one in answers(max_tokens=3)] == [(3, False)] * 4


# judging


def test_accuracy_and_what_went_wrong_are_counted() -> None:
    pattern = AnswerPattern(GSM8K)
    written = [Answer("#### 1,0", 5, True), Answer("#### 3", 4, False), Answer("hm", 1, True), None]
    found = judge_answers(pattern, ["a", "b", "c", "d"], written, ["10", "4", "5", "6"])
    assert (found.accuracy.value, found.questions) == (0.25, 4)
    assert (found.without_answer, found.unfinished, found.too_long, found.generated_tokens) == (1, 1, 1, 10)
    assert [(one.extracted, one.correct) for one in found.samples] == [
        ("1,0", True),
        ("3", False),
        (None, False),
        (None, False),
    ]
