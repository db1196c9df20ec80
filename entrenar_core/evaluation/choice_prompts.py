"""From a question with choices to a context and what may follow it, as text and as tokens.

A template is text with columns in braces: ``{question}\\nAnswer:``. Solved questions may stand before it. A template
that shows the choices itself, with ``{choices}``, is answered by their labels, others by their texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np

from entrenar_core.data.choices import ChoiceQuestion
from entrenar_core.errors import ConfigError, TokenizerError
from entrenar_core.tokenizer.tokenizer import Tokenizer

QUESTION, CHOICES = "question", "choices"
DEFAULT_TEMPLATE = "{question}\nAnswer:"
BETWEEN_SHOTS = "\n\n"
BEFORE_ANSWER = " "


@dataclass(frozen=True)
class Template:
    """Text with columns in braces; made by `parse`. `fields`: what stands in the braces."""

    text: str
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises ConfigError for unbalanced braces, braces with more than a name in them, and for no braces at all."""
        try:
            parts = [part for part in Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise _template_error(f"the template is broken: {error}") from error
        if not all(_is_plain(name, spec, conversion) for _, name, spec, conversion in parts):
            raise _template_error("the braces of a template hold a name alone")
        names = [str(name) for _, name, _, _ in parts]
        if not all(names or [""]):
            raise _template_error("the template names no column")
        return cls(text, tuple(dict.fromkeys(names)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs besides question and choices."""
        return tuple(name for name in self.fields if name not in (QUESTION, CHOICES))

    @property
    def shows_choices(self) -> bool:
        """Whether a question is answered by a label."""
        return CHOICES in self.fields

    def render(self, one: ChoiceQuestion) -> str:
        """The text up to where the answer begins."""
        values: dict[str, Any] = {**one.columns, QUESTION: one.question}
        if self.shows_choices:
            lines = (f"{label}. {text}" for label, text in zip(one.labels, one.choices, strict=True))
            values[CHOICES] = "\n".join(lines)
        return "".join(
            literal + ("" if name is None else _shown(values[name]))
            for literal, name, _, _ in Formatter().parse(self.text)
        )

    def answers(self, one: ChoiceQuestion) -> tuple[str, ...]:
        """What may follow."""
        return one.labels if self.shows_choices else one.choices

    def solved(self, one: ChoiceQuestion) -> str:
        """The text with the right answer, as an example."""
        return self.render(one) + BEFORE_ANSWER + self.answers(one)[one.answer]


def _is_plain(name: str | None, spec: str | None, conversion: str | None) -> bool:
    return not (spec or conversion or set(".[]") & set(str(name)))


def _template_error(message: str) -> ConfigError:
    hint = "columns stand in braces: '{question}\\nAnswer:'; a brace of the text itself is doubled"
    return ConfigError(message, where="--template", hint=hint)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def draw_shots(
    pool: Sequence[ChoiceQuestion], one: ChoiceQuestion, count: int, key: Sequence[int]
) -> list[ChoiceQuestion]:
    """`count` questions of a pool in random order, without the one that is asked.

    Args:
        key: names the draw: the seed, and the number of the question.

    Raises:
        ConfigError: the pool has too few.
    """
    order = np.random.default_rng(list(key)).permutation(len(pool))
    found = [pool[index] for index in order[: count + 1] if not _is_same(pool[index], one)][:count]
    if len(found) < count:
        found = [pool[index] for index in order if not _is_same(pool[index], one)][:count]
    if len(found) < count:
        message = f"{count} examples are wanted, and there are {len(found)} besides the question"
        raise ConfigError(message, where="--shots", hint="ask for fewer, or give more with --shots-data")
    return found


def _is_same(a: ChoiceQuestion, b: ChoiceQuestion) -> bool:
    return a.question == b.question and a.choices == b.choices


@dataclass(frozen=True)
class Continuation:
    """Tokens of a context and what follows it; those from `start` on are judged."""

    tokens: tuple[int, ...]
    start: int


def continuations(
    tokenizer: Tokenizer, contexts: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[list[Continuation]]:
    """Each context with each of its answers behind a space, as tokens, as EleutherAI's lm-evaluation-harness has them.

    Context and answer are tokenized as one text, after spaces at the end of the context have gone over to the answer;
    as many tokens as the context has by itself are taken for it. So where a token lies across the border it counts for
    the answer. BOS stands in front where the model wants it.

    Raises:
        TokenizerError: a context is empty, and the model has neither a BOS nor an EOS token to begin with.
    """
    bare = [context.rstrip() for context in contexts]
    wholes = [
        context + BEFORE_ANSWER + answer for context, each in zip(contexts, answers, strict=True) for answer in each
    ]
    encoded_wholes = iter(tokenizer.encode_batch(wholes))
    found: list[list[Continuation]] = []
    for context, each in zip(tokenizer.encode_batch(bare), answers, strict=True):
        frame = _beginning(tokenizer, is_empty=not context)
        found.append([_continuation(frame, context, next(encoded_wholes)) for _ in each])
    return found


def _continuation(frame: list[int], context: list[int], whole: list[int]) -> Continuation:
    start = min(len(context), len(whole) - 1)  # a whole as short as its context: their last token is judged
    return Continuation((*frame, *whole), len(frame) + start)


def _beginning(tokenizer: Tokenizer, *, is_empty: bool) -> list[int]:
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        return [tokenizer.bos_id]
    if not is_empty:
        return []
    first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if first is None:
        raise TokenizerError("a context is empty, and the model has no BOS token to begin with")
    return [first]


def cut_left(one: Continuation, context_length: int) -> Continuation:
    """The last tokens that fit a model's context; its last token is predicted and not read."""
    too_long = len(one.tokens) - 1 - context_length
    return one if too_long <= 0 else Continuation(one.tokens[too_long:], max(1, one.start - too_long))
