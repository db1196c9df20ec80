"""Templates, examples in front, and where the tokens of an answer begin."""

from __future__ import annotations

import pytest

from entrenar_core.data.choices import ChoiceQuestion
from entrenar_core.errors import ConfigError, TokenizerError
from entrenar_core.evaluation.choice_prompts import (
    DEFAULT_TEMPLATE,
    Continuation,
    Template,
    continuations,
    cut_left,
    draw_shots,
)
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.stages.tiny_base import tokenizer_entries

SKY = ChoiceQuestion("What is blue?", ("the sky", "a key"), ("A", "B"), 0, {"subject": "colours", "level": 3})


def tokenizer(*without: str, **changes: MetadataValue) -> Tokenizer:
    entries = {key: value.plain for key, value in tokenizer_entries() if key.split(".")[-1] not in without}
    return tokenizer_from_metadata(entries | {f"tokenizer.ggml.{key}": one.plain for key, one in changes.items()}, "t")


def test_a_template_shows_columns() -> None:
    assert Template.parse(DEFAULT_TEMPLATE).render(SKY) == "What is blue?\nAnswer:"
    template = Template.parse("{{{subject}}} {level}: {question}")
    assert template.render(SKY) == "{colours} 3: What is blue?"
    assert template.columns == ("subject", "level")
    assert template.solved(SKY) == "{colours} 3: What is blue? the sky"


def test_a_template_that_shows_the_choices_is_answered_by_labels() -> None:
    template = Template.parse("{question}\n{choices}\nAnswer:")
    assert template.render(SKY) == "What is blue?\nA. the sky\nB. a key\nAnswer:"
    assert template.answers(SKY) == ("A", "B")
    assert Template.parse("{question}").answers(SKY) == ("the sky", "a key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Answer:", "names no column"),
        ("{}", "names no column"),
        ("{question", "is broken"),
        ("{question.__class__}", "a name alone"),
        ("{question!r}", "a name alone"),
        ("{question:>9}", "a name alone"),
        ("{question[0]}", "a name alone"),
    ],
)
def test_templates_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Template.parse(text)


def test_examples_are_drawn_by_their_key_and_never_the_question_itself() -> None:
    pool = [ChoiceQuestion(f"Q{number}", ("a", "b"), ("A", "B"), 0) for number in range(6)]
    drawn = [draw_shots(pool, pool[2], 5, (seed, 2)) for seed in range(20)]
    assert all(sorted(one.question for one in shots) == ["Q0", "Q1", "Q3", "Q4", "Q5"] for shots in drawn)
    assert drawn[3] == draw_shots(pool, pool[2], 5, (3, 2))
    assert len({tuple(one.question for one in shots) for shots in drawn}) > 10
    with pytest.raises(ConfigError, match="6 examples are wanted, and there are 5 besides the question"):
        draw_shots(pool, pool[2], 6, (0, 2))


def test_context_and_answer_are_tokenized_as_one_text_and_the_border_token_is_the_answers() -> None:
    words = tokenizer()
    context = "Ada saw a red ball. It was Ada's"
    ((one, two),) = continuations(words, [context], [("red ball.", "old key.")])
    assert one.tokens == tuple(words.encode(f"{context} red ball."))
    assert one.start == two.start == len(words.encode(context))
    assert words.decode(one.tokens[one.start :]) == " red ball."


def test_spaces_at_the_end_of_a_context_go_over_to_the_answer() -> None:
    words = tokenizer()
    ((one,),) = continuations(words, ["Ada saw a  "], [("key",)])
    assert one.start == len(words.encode("Ada saw a"))
    assert one.tokens == tuple(words.encode("Ada saw a   key"))


def test_bos_stands_in_front_where_the_model_wants_it_and_where_nothing_else_would() -> None:
    bos = tokenizer().bos_id
    assert bos is not None
    ((plain,),) = continuations(tokenizer(), ["Ada"], [("Bo",)])
    ((framed,),) = continuations(tokenizer(add_bos_token=MetadataValue.bool(True)), ["Ada"], [("Bo",)])
    assert framed == Continuation((bos, *plain.tokens), plain.start + 1)
    ((empty,),) = continuations(tokenizer(), [""], [("Bo",)])
    assert (empty.tokens[0], empty.start) == (bos, 1)
    with pytest.raises(TokenizerError, match="no BOS token to begin with"):
        continuations(tokenizer("bos_token_id", "eos_token_id"), [""], [("Bo",)])


def test_an_answer_that_melts_into_its_context_is_judged_by_the_last_token() -> None:
    """As many tokens as before: the last of them is not the context's any more."""
    words = tokenizer()
    context = next(text for text in ("Ada", "boat", "key") if len(words.encode(text)) > 1)
    ((one,),) = continuations(words, [context], [("",)])
    assert one.start == len(one.tokens) - 1


def test_what_is_too_long_loses_its_beginning() -> None:
    one = Continuation(tuple(range(10)), 7)
    assert cut_left(one, 9) == one
    assert cut_left(one, 5) == Continuation((4, 5, 6, 7, 8, 9), 3)
    assert cut_left(one, 2) == Continuation((7, 8, 9), 1)
