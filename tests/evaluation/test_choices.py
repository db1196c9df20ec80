"""Multiple choice: log-likelihoods are those of reading every choice as a whole, however questions are batched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.errors import ModelError
from entrenar_core.evaluation import choices as choices_module
from entrenar_core.evaluation.choice_prompts import Continuation
from entrenar_core.evaluation.choices import judge_choices, log_likelihoods, shared_tokens
from entrenar_core.model.decoder import LanguageModel
from tests.model.tiny import build, lively_weights, tiny_spec

VOCAB, CONTEXT = 40, 64
MODEL = build(tiny_spec(), trainable=False)

ids = st.integers(0, VOCAB - 1)


@st.composite
def question(draw: st.DrawFn) -> list[Continuation]:
    """Choices behind one context; sometimes the border's token differs among them."""
    context = draw(st.lists(ids, min_size=1, max_size=20))
    answers = draw(st.lists(st.lists(ids, min_size=1, max_size=6), min_size=2, max_size=5))
    starts = [len(context) - (draw(st.booleans()) and len(context) > 1) for _ in answers]
    return [Continuation((*context, *answer), start) for answer, start in zip(answers, starts, strict=True)]


def as_a_whole(model: LanguageModel, one: Continuation) -> float:
    logits = model.logits(np.array([one.tokens[:-1]], np.int32))[0].astype(np.float64)
    log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return sum(log_p[place - 1, one.tokens[place]] for place in range(one.start, len(one.tokens)))


@settings(max_examples=30, deadline=None)
@given(st.lists(question(), min_size=1, max_size=6), st.integers(1, 4))
def test_a_choice_scores_as_if_it_was_read_alone(questions: list[list[Continuation]], batch_size: int) -> None:
    found = log_likelihoods(MODEL, questions, batch_size=batch_size)
    for scores, one in zip(found, questions, strict=True):
        np.testing.assert_allclose(scores, [as_a_whole(MODEL, choice) for choice in one], rtol=1e-9, atol=1e-9)


def test_few_logits_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = [Continuation((1, 2, 3, 4, 5), 1), Continuation((1, 7, 8), 1)]
    (expected,) = log_likelihoods(MODEL, [one], batch_size=1)
    monkeypatch.setattr(choices_module, "row_parts", lambda count, model: (slice(row, row + 1) for row in range(count)))
    (found,) = log_likelihoods(MODEL, [one], batch_size=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_question_may_fill_the_whole_context() -> None:
    long = [Continuation(tuple(range(1, 40)) + tuple(range(26)), 60), Continuation((1, 2, 3), 2)]
    assert len(long[0].tokens) == CONTEXT + 1
    (found,) = log_likelihoods(MODEL, [long], batch_size=1)
    np.testing.assert_allclose(found, [as_a_whole(MODEL, choice) for choice in long], rtol=1e-9)


def test_progress_is_told_in_questions() -> None:
    done: list[int] = []
    questions = [[Continuation((1, 2), 1), Continuation((1, 3), 1)]] * 5
    log_likelihoods(MODEL, questions, batch_size=2, progress=done.append)
    assert done == [2, 4, 5]


@pytest.mark.parametrize(
    ("choices", "shared"),
    [
        ([((1, 2, 3, 4), 3), ((1, 2, 3, 5), 3)], 2),
        ([((1, 2, 3, 4), 3), ((1, 9, 3, 5), 3)], 1),
        ([((1, 2, 3, 4), 3), ((1, 2, 5), 2)], 1),
        ([((1, 2), 1), ((1, 3), 1)], 0),
    ],
)
def test_what_is_read_once_ends_before_the_token_that_tells_the_first_answer(
    choices: list[tuple[tuple[int, ...], int]], shared: int
) -> None:
    assert shared_tokens([Continuation(tokens, start) for tokens, start in choices]) == shared


def test_numbers_that_are_not_finite_are_an_error() -> None:
    weights = lively_weights(tiny_spec())
    weights["output_norm.weight"][0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        log_likelihoods(build(tiny_spec(), weights), [[Continuation((1, 2), 1)] * 2], batch_size=1)


def judged(
    scores: Sequence[Sequence[float]], n_bytes: Sequence[Sequence[int]], answers: Sequence[int]
) -> tuple[float, float]:
    found = judge_choices([np.array(one) for one in scores], n_bytes, answers)
    return found.accuracy.value, found.accuracy_per_byte.value


def test_accuracy_counts_the_likeliest_and_the_likeliest_per_byte() -> None:
    assert judged([[-2.0, -3.0]], [[1, 3]], [0]) == (1.0, 0.0)
    assert judged([[-2.0, -3.0]], [[1, 3]], [1]) == (0.0, 1.0)
    assert judged([[-1.0, -1.0]], [[2, 2]], [0]) == (1.0, 1.0)


def test_standard_error_and_chance() -> None:
    found = judge_choices([np.array([-1.0, -2.0])] * 3 + [np.zeros(4)], [[1, 1]] * 3 + [[1] * 4], [0, 0, 1, 0])
    assert found.accuracy.value == 0.75
    assert found.accuracy.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert found.chance == pytest.approx((3 * 0.5 + 0.25) / 4)
