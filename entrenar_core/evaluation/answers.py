"""Answers that a model writes, and whether they are the expected ones.

A regex finds the answer in a longer text: its one group, where it matches last. Numbers are compared by value, without
the commas and dots that writing leaves in and behind them; everything else letter by letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from entrenar_core.errors import ConfigError
from entrenar_core.evaluation.statistics import Estimate, share_with_error
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Sampling, generate_batch
from entrenar_core.tokenizer.tokenizer import StreamDecoder, Tokenizer

_GSM8K = "'#### (-?[0-9.,]+)'"


class AnswerPattern:
    """Finds the answer in a text. Without a regex the whole text is the answer.

    Raises:
        ConfigError: the regex is broken, or has no group or several.
    """

    def __init__(self, regex: str | None) -> None:
        self._regex = None if regex is None else _compiled(regex)

    def find(self, text: str) -> str | None:
        """What the group holds where the regex matches last; None where it does not."""
        if self._regex is None:
            return text.strip()
        found = None
        for match in self._regex.finditer(text):
            found = match[1] if match[1] is not None else found
        return None if found is None else found.strip()


def _compiled(regex: str) -> re.Pattern[str]:
    hint = f"brackets hold what the answer is, such as {_GSM8K}; brackets that only group are (?:...)"
    try:
        pattern = re.compile(regex)
    except re.error as error:
        message = f"the regex is broken: {error}"
        raise ConfigError(message, where="--regex", hint=f"it is one of Python's, such as {_GSM8K}") from error
    if pattern.groups != 1:
        many = "no group" if pattern.groups == 0 else f"{pattern.groups} groups"
        raise ConfigError(f"the regex has {many}, and one is needed", where="--regex", hint=hint)
    return pattern


def is_same_answer(a: str, b: str) -> bool:
    """Whether two answers are equal: as numbers if both are, else as texts without the spaces around them."""
    numbers = number_in(a), number_in(b)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1]
    return a.strip() == b.strip()


def number_in(text: str) -> Decimal | None:
    """The number that a text is, commas between digits and dots behind them left out; None where it is none."""
    try:
        number = Decimal(text.strip().rstrip(".").replace(",", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


@dataclass(frozen=True)
class Answer:
    """What a model wrote. `is_finished`: it ended by itself, or with a text that ends answers."""

    text: str
    n_tokens: int
    is_finished: bool


def generate_answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: Sequence[str],
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """What the model writes after each prompt, in their order. Prompts of like length are continued together.

    Args:
        prompts: token ids; at least one each, and room in the context behind them.
        stop: texts that end an answer and are no part of it.
        batch_size: prompts that are continued together; it does not change the answers.
        progress: is told how many prompts are done.

    Raises:
        ModelError: a prompt does not fit the context, or the model computes numbers that are not finite.
    """
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable")
    found: list[Answer | None] = [None] * len(prompts)
    for begin in range(0, len(order), batch_size):
        numbers = order[begin : begin + batch_size].tolist()
        watch = _StopWatch(tokenizer, stop, len(numbers))
        written = generate_batch(
            model,
            [prompts[number] for number in numbers],
            max_tokens=max_tokens,
            sampling=sampling,
            stop_ids=tokenizer.stop_ids,
            vocab_size=tokenizer.vocab_size,
            keys=numbers,
            is_over=watch.is_over,
        )
        for number, one, text in zip(numbers, written, watch.texts(), strict=True):
            found[number] = Answer(text.shown, len(one.ids), one.stop_id is not None or text.is_over)
        progress(begin + len(numbers))
    return [one for one in found if one is not None]


class _Text:
    """One answer as it grows."""

    def __init__(self, decoder: StreamDecoder) -> None:
        self.decoder = decoder
        self.shown = ""
        self.is_over = False

    def push(self, piece: str, stop: Sequence[str]) -> bool:
        """Append a piece; cut where the first of the texts that end an answer begins."""
        first = max(0, len(self.shown) - max(map(len, stop), default=1) + 1)
        self.shown += piece
        places = [place for one in stop if (place := self.shown.find(one, first)) >= 0]
        if places:
            self.shown = self.shown[: min(places)]
            self.is_over = True
        return self.is_over


class _StopWatch:
    """Follows the texts of a batch for what ends them."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], count: int) -> None:
        self._stop = stop
        self._texts = [_Text(tokenizer.stream_decoder()) for _ in range(count)]

    def is_over(self, number: int, token: int) -> bool:
        text = self._texts[number]
        return text.push(text.decoder.push(token), self._stop)

    def texts(self) -> list[_Text]:
        """All texts, with what was held back at their ends."""
        for text in self._texts:
            if not text.is_over:
                text.push(text.decoder.finish(), self._stop)
        return self._texts


@dataclass(frozen=True)
class Sample:
    """One question and its answer. `extracted`: what the regex found; None: nothing."""

    prompt: str
    generated: str
    extracted: str | None
    expected: str
    correct: bool


@dataclass(frozen=True)
class AnswerResult:
    """How often the answer is the expected one.

    Attributes:
        without_answer: answers in which the regex finds nothing. unfinished: those that reached the most tokens.
        too_long: prompts that leave no room in the context; they count as wrong.
        generated_tokens: of all answers.
        samples: each question; not part of the JSON.
    """

    accuracy: Estimate
    questions: int
    without_answer: int
    unfinished: int
    too_long: int
    generated_tokens: int
    samples: tuple[Sample, ...] = ()

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What models are compared by."""
        return {"accuracy": self.accuracy.value}

    def as_json(self) -> dict[str, object]:
        """Its figures, flat."""
        return {
            "accuracy": self.accuracy.value,
            "accuracy_error": self.accuracy.standard_error,
            "questions": self.questions,
            "without_answer": self.without_answer,
            "unfinished": self.unfinished,
            "too_long": self.too_long,
            "generated_tokens": self.generated_tokens,
        }


def _sample(pattern: AnswerPattern, prompt: str, answer: Answer | None, expected: str) -> Sample:
    if answer is None:
        return Sample(prompt, "", None, expected, correct=False)
    extracted = pattern.find(answer.text)
    is_correct = extracted is not None and is_same_answer(extracted, expected)
    return Sample(prompt, answer.text, extracted, expected, is_correct)


def judge_answers(
    pattern: AnswerPattern, prompts: Sequence[str], answers: Sequence[Answer | None], expected: Sequence[str]
) -> AnswerResult:
    """Compare answers with what is expected.

    Args:
        prompts: as text, for the samples.
        answers: None where the prompt was too long.
        expected: the answers alone, as the pattern finds them.
    """
    samples = [_sample(pattern, *each) for each in zip(prompts, answers, expected, strict=True)]
    written = [one for one in answers if one is not None]
    return AnswerResult(
        accuracy=share_with_error(sum(one.correct for one in samples), len(samples)),
        questions=len(samples),
        without_answer=sum(one.extracted is None for one in samples) - (len(answers) - len(written)),
        unfinished=sum(not one.is_finished for one in written),
        too_long=len(answers) - len(written),
        generated_tokens=sum(one.n_tokens for one in written),
        samples=tuple(samples),
    )
