"""From rows to examples: special tokens, the exact border of the mask, refused rows, and what happens to long ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.examples import Example, Examples
from entrenar_core.data.labels import Labels
from entrenar_core.data.loader import Loader
from entrenar_core.data.row_encoders import Frame, labelled_row
from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError
from tests.data.documents import predictions_of_batches, predictions_of_data_set

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer


def encode(
    tokenizer: Tokenizer, task: Task, rows: dict[str, list[Any]], seq_len: int, labels: Labels | None = None, **fmt: Any
) -> Examples:
    encoding = Encoding(tokenizer, ExampleFormat(seq_len, **fmt), labels=labels)
    encoder = encoding.encoder(task, "a.parquet")
    builder = ExampleBuilder(seq_len, encoding.fmt.overlong)
    builder.add(encoder.encode(rows, "row {}".format), encoder.default_overlong)
    return builder.finish()


def encode_texts(tokenizer: Tokenizer, *texts: str | None, seq_len: int = 1000, **fmt: Any) -> Examples:
    return encode(tokenizer, Task.TEXT, {"text": list(texts)}, seq_len, **fmt)


def encode_pairs(
    tokenizer: Tokenizer, *rows: tuple[str | None, str | None], seq_len: int = 1000, **fmt: Any
) -> Examples:
    prompts, completions = ([row[side] for row in rows] for side in (0, 1))
    return encode(tokenizer, Task.PROMPT_COMPLETION, {"prompt": prompts, "completion": completions}, seq_len, **fmt)


def encode_labelled(
    tokenizer: Tokenizer, *rows: tuple[str | None, Any], seq_len: int = 1000, classes: tuple[str, ...] = (), **fmt: Any
) -> Examples:
    """Rows of text and class, or of text and number where there are no classes."""
    task, role = (Task.CLASSIFICATION, "label") if classes else (Task.REGRESSION, "target")
    columns = {"text": [text for text, _ in rows], role: [value for _, value in rows]}
    return encode(tokenizer, task, columns, seq_len, Labels(classes), **fmt)


def trained_text(tokenizer: Tokenizer, example: Example) -> str:
    return tokenizer.decode(example.tokens[example.supervised].tolist(), skip_special=False)


# -- text -----------------------------------------------------------------------------------------------------------


def test_text_ends_with_a_trained_stop_token(tokenizer: Tokenizer) -> None:
    example = encode_texts(tokenizer, "hello world")[0]
    assert example.tokens.tolist() == [*tokenizer.encode("hello world"), tokenizer.eos_id]
    assert example.supervised[-1]


def test_every_token_of_a_text_is_trained_but_the_first(tokenizer: Tokenizer) -> None:
    example = encode_texts(tokenizer, "hello world")[0]
    assert not example.supervised[0]
    assert example.supervised[1:].all()


def test_bos_comes_first_when_asked_for_and_then_the_first_word_is_a_target(tokenizer: Tokenizer) -> None:
    example = encode_texts(tokenizer, "hello world", add_bos=True)[0]
    assert example.tokens[0] == tokenizer.bos_id
    assert trained_text(tokenizer, example).startswith("hello world")


def test_bos_is_what_the_tokenizer_says_by_default(tokenizer: Tokenizer) -> None:
    assert tokenizer.add_bos is False
    assert encode_texts(tokenizer, "hello world")[0].tokens[0] != tokenizer.bos_id


def test_without_add_eos_nothing_is_appended(tokenizer: Tokenizer) -> None:
    assert encode_texts(tokenizer, "hello world", add_eos=False)[0].tokens.tolist() == tokenizer.encode("hello world")


def test_special_tokens_inside_a_text_stay_text(tokenizer: Tokenizer) -> None:
    name = tokenizer.decode([tokenizer.eos_id or 0], skip_special=False)
    assert name == "<|endoftext|>"
    example = encode_texts(tokenizer, f"hello {name} world")[0]
    assert (example.tokens == tokenizer.eos_id).sum() == 1
    assert tokenizer.decode(example.tokens[:-1].tolist()) == f"hello {name} world"


# -- prompt and completion ------------------------------------------------------------------------------------------


def test_the_mask_begins_exactly_at_the_completion(tokenizer: Tokenizer) -> None:
    example = encode_pairs(tokenizer, ("what says the fox", "hello world"))[0]
    assert trained_text(tokenizer, example) == "hello world<|endoftext|>"
    context = example.tokens[~example.supervised].tolist()
    assert tokenizer.decode(context) == "what says the fox\n"


def test_no_token_lies_across_the_border(tokenizer: Tokenizer) -> None:
    joined = tokenizer.encode("the question")
    example = encode_pairs(tokenizer, ("the ques", "tion"), separator="")[0]
    assert example.tokens.tolist() == [*tokenizer.encode("the ques"), *tokenizer.encode("tion"), tokenizer.eos_id]
    assert example.tokens[:-1].tolist() != joined


def test_a_prompt_may_be_trained_too(tokenizer: Tokenizer) -> None:
    example = encode_pairs(tokenizer, ("the fox", "says"), train_on_prompt=True, add_bos=True)[0]
    assert trained_text(tokenizer, example) == "the fox\nsays<|endoftext|>"


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_the_stop_token_of_a_completion_is_trained(tokenizer: Tokenizer, train_on_prompt: bool) -> None:
    example = encode_pairs(tokenizer, ("the fox", "says"), train_on_prompt=train_on_prompt)[0]
    assert example.tokens[-1] == tokenizer.eos_id
    assert example.supervised[-1]


@pytest.mark.property
@given(
    prompt=st.text(min_size=1).filter(str.strip),
    completion=st.text(min_size=1).filter(str.strip),
    separator=st.sampled_from(["", "\n", " -> ", "\n### Answer:\n"]),
    add_bos=st.booleans(),
)
def test_what_is_trained_is_the_completion_and_the_stop_token(
    tokenizer: Tokenizer, prompt: str, completion: str, separator: str, add_bos: bool
) -> None:
    example = encode_pairs(tokenizer, (prompt, completion), separator=separator, add_bos=add_bos)[0]
    trained = example.tokens[example.supervised].tolist()
    context = example.tokens[~example.supervised].tolist()[int(add_bos) :]
    assert trained[-1] == tokenizer.eos_id
    assert tokenizer.decode(trained[:-1], skip_special=False) == completion
    assert tokenizer.decode(context, skip_special=False) == prompt + separator


# -- instructions without a chat template ---------------------------------------------------------------------------


def encode_instruction(tokenizer: Tokenizer, instruction: str, more: str | None, output: str) -> Example:
    rows = {"instruction": [instruction], "input": [more], "output": [output]}
    return encode(tokenizer, Task.INSTRUCTION, rows, 1000)[0]


@pytest.mark.parametrize(("more", "middle"), [("the fox", "### Input:\nthe fox\n\n"), ("", ""), (None, ""), ("  ", "")])
def test_an_instruction_gets_the_headings_of_alpaca(tokenizer: Tokenizer, more: str | None, middle: str) -> None:
    example = encode_instruction(tokenizer, "who says hello", more, "the dog")
    context = tokenizer.decode(example.tokens[~example.supervised].tolist())
    assert context == f"### Instruction:\nwho says hello\n\n{middle}### Response:\n"
    assert trained_text(tokenizer, example) == "the dog<|endoftext|>"


# -- labelled rows --------------------------------------------------------------------------------------------------


def test_the_label_alone_is_trained_and_stands_behind_the_text(tokenizer: Tokenizer) -> None:
    example = encode_labelled(tokenizer, ("hello world", "dog"), classes=("cat", "dog"))[0]
    assert example.tokens.tolist() == [*tokenizer.encode("hello world"), tokenizer.eos_id, 1]
    assert example.supervised.tolist() == [False] * (len(example.tokens) - 1) + [True]


def test_a_number_is_kept_beside_the_tokens(tokenizer: Tokenizer) -> None:
    examples = encode_labelled(tokenizer, ("hello", 1.7e9 + 0.25), ("world", "-2"), ("fox", None))
    assert examples.values is not None
    assert examples.values.tolist() == [1.7e9 + 0.25, -2.0]
    assert [examples[index].tokens[-1] for index in range(2)] == [0, 0]
    assert examples.stats.refused == {"null": 1}


def test_a_long_text_is_cut_but_keeps_its_label(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode("the quick brown fox jumps")
    examples = encode_labelled(
        tokenizer, ("the quick brown fox jumps", "b"), classes=("a", "b"), seq_len=3, add_eos=False
    )
    assert examples[0].tokens.tolist() == [*whole[:3], 1]
    assert examples[0].supervised.tolist() == [False, False, False, True]
    assert (examples.stats.overlong_rows, examples.stats.truncated_tokens) == (1, len(whole) - 3)


@pytest.mark.parametrize("overlong", ["truncate", "split"])
def test_the_stop_token_stands_before_the_label_of_a_cut_text_too(tokenizer: Tokenizer, overlong: str) -> None:
    whole = tokenizer.encode("the quick brown fox jumps")
    examples = encode_labelled(
        tokenizer, ("the quick brown fox jumps", "b"), classes=("a", "b"), seq_len=3, overlong=overlong
    )
    assert examples[0].tokens.tolist() == [*whole[:2], tokenizer.eos_id, 1]
    assert (examples.stats.overlong_rows, examples.stats.truncated_tokens) == (1, len(whole) + 1 - 3)


@pytest.mark.parametrize("classes", [("cat", "dog"), ()], ids=["classes", "numbers"])
def test_a_row_whose_label_is_missing_is_refused(tokenizer: Tokenizer, classes: tuple[str, ...]) -> None:
    known = classes[0] if classes else 1.0
    rows = [("hello", known), ("fox", None), ("fox", math.nan), ("fox", " "), (None, known)]
    examples = encode_labelled(tokenizer, *rows, classes=classes)
    assert len(examples) == 1
    assert examples.stats.refused == {"null": 3, "empty": 1}


def test_a_text_without_a_single_token_is_refused() -> None:
    assert labelled_row(Frame((), ()), [], 1) == "empty"


def test_a_class_that_the_training_data_lack_is_an_error_that_names_the_row(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        DataError, match="the label 'bird' is not among the classes of the training data: cat, dog"
    ) as error:
        encode_labelled(tokenizer, ("hello", "cat"), ("fox", "bird"), classes=("cat", "dog"))
    assert error.value.where == "row 1"


def test_a_target_that_is_no_number_is_an_error_that_names_the_row(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="the target 'many' is not a finite number") as error:
        encode_labelled(tokenizer, ("hello", "many"))
    assert error.value.where == "row 0"


# -- refused rows ---------------------------------------------------------------------------------------------------


def test_null_and_blank_texts_are_refused_and_counted(tokenizer: Tokenizer) -> None:
    stats = encode_texts(tokenizer, "hello", None, "", " \n", "world").stats
    assert stats.refused == {"null": 1, "empty": 2}
    assert (stats.rows, stats.examples) == (5, 2)


@pytest.mark.parametrize("row", [(None, "x"), ("x", None), ("", "x"), ("x", " ")])
def test_a_pair_needs_both_sides(tokenizer: Tokenizer, row: tuple[str | None, str | None]) -> None:
    examples = encode_pairs(tokenizer, row, ("the fox", "says"))
    assert len(examples) == 1
    assert sum(examples.stats.refused.values()) == 1


def test_one_token_alone_has_nothing_to_learn(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("a")) == 1
    assert encode_texts(tokenizer, "a", add_eos=False).stats.refused == {"nothing to learn": 1}


def test_a_batch_without_a_usable_row_is_no_problem(tokenizer: Tokenizer) -> None:
    assert len(encode_texts(tokenizer, None, None)) == 0


# -- long rows ------------------------------------------------------------------------------------------------------


def test_a_row_that_just_fits_is_left_alone_by_every_policy(tokenizer: Tokenizer) -> None:
    tokens = len(tokenizer.encode("the quick brown fox")) + 1
    for policy in ("truncate", "split", "drop"):
        examples = encode_texts(tokenizer, "the quick brown fox", seq_len=tokens - 1, overlong=policy)
        assert len(examples) == 1
        assert examples.stats.overlong_rows == 0


def test_truncate_keeps_the_first_positions_and_counts_the_rest(tokenizer: Tokenizer) -> None:
    whole = [*tokenizer.encode("the quick brown fox"), tokenizer.eos_id]
    examples = encode_texts(tokenizer, "the quick brown fox", seq_len=len(whole) - 3, overlong="truncate")
    assert examples[0].tokens.tolist() == whole[:-2]
    assert examples.stats.truncated_tokens == 2
    assert examples.stats.overlong_rows == 1


def test_drop_refuses_a_long_row(tokenizer: Tokenizer) -> None:
    fits = len(tokenizer.encode("hello"))
    examples = encode_texts(tokenizer, "hello", "hello " * 10, seq_len=fits, overlong="drop")
    assert [tokenizer.decode(examples[index].tokens.tolist()) for index in range(len(examples))] == ["hello"]
    assert examples.stats.refused == {"longer than seq_len": 1}


def test_texts_are_split_and_completions_truncated_by_default(tokenizer: Tokenizer) -> None:
    assert len(encode_texts(tokenizer, "the quick brown fox jumps over", seq_len=4)) > 1
    assert len(encode_pairs(tokenizer, ("a", "the quick brown fox jumps over"), seq_len=4)) == 1


@pytest.mark.property
@given(
    words=st.lists(st.sampled_from(["the", " fox", " says", "\n", "é", "xyz"]), min_size=1), seq_len=st.integers(1, 9)
)
def test_split_makes_every_token_a_target_exactly_once_except_the_first(
    tokenizer: Tokenizer, words: list[str], seq_len: int
) -> None:
    text = "a" + "".join(words)
    examples = encode_texts(tokenizer, text, seq_len=seq_len, overlong="split")
    targets = [token for index in range(len(examples)) for token in examples[index].tokens[1:].tolist()]
    assert targets == [*tokenizer.encode(text), tokenizer.eos_id][1:]
    assert examples.lengths.max() <= seq_len
    assert examples.stats.truncated_tokens == 0


def test_a_prompt_that_fills_the_window_leaves_nothing_to_learn(tokenizer: Tokenizer) -> None:
    examples = encode_pairs(tokenizer, ("the quick brown fox", "says"), seq_len=2, overlong="truncate")
    assert len(examples) == 0
    assert examples.stats.refused == {"nothing to learn": 1}
    assert examples.stats.truncated_tokens == 0


def test_windows_of_a_split_row_that_hold_only_prompt_are_left_out(tokenizer: Tokenizer) -> None:
    whole = encode_pairs(tokenizer, ("the quick brown fox jumps", "hello world"))
    split = encode_pairs(tokenizer, ("the quick brown fox jumps", "hello world"), seq_len=3, overlong="split")
    assert split.stats.supervised_tokens == whole.stats.supervised_tokens
    assert split.stats.total_tokens < whole.stats.total_tokens
    assert split.stats.truncated_tokens == 0


# -- special tokens that do not exist -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bos", "eos"])
def test_a_special_token_that_the_tokenizer_lacks_is_an_error_that_names_the_key(
    tokenizer_without_specials: Tokenizer, kind: str
) -> None:
    wanted = {"add_bos": kind == "bos", "add_eos": kind == "eos"}
    with pytest.raises(DataError, match=f"no {kind.upper()} token") as error:
        encode_texts(tokenizer_without_specials, "hello", **wanted)
    assert f"data.add_{kind}: false" in str(error.value.hint)
    assert error.value.where == "a.parquet"


def test_a_tokenizer_without_specials_works_when_none_is_asked_for(tokenizer_without_specials: Tokenizer) -> None:
    assert len(encode_texts(tokenizer_without_specials, "hello world", add_eos=False)) == 1


# -- into batches ---------------------------------------------------------------------------------------------------


@pytest.mark.property
@given(st.lists(st.text(alphabet="the foxsay\n", min_size=1), min_size=1, max_size=20), st.integers(0, 9))
def test_packed_and_unpacked_epochs_ask_the_same_questions(tokenizer: Tokenizer, texts: list[str], seed: int) -> None:
    examples = encode_texts(tokenizer, *texts, "the fox", seq_len=12)
    expected = predictions_of_data_set(examples)
    for packing in (False, True):
        loader = Loader(examples, batch_size=3, seq_len=12, packing=packing, seed=seed)
        assert predictions_of_batches(loader.epoch(0)) == expected


def test_ids_survive_the_way_into_a_batch(tokenizer: Tokenizer) -> None:
    examples = encode_pairs(tokenizer, ("the fox", "says"))
    batch = Loader(examples, batch_size=1, seq_len=64).batch(0, 0)
    n = len(examples[0].tokens) - 1
    assert np.array_equal(batch.tokens[0, :n], examples[0].tokens[:-1])
    assert batch.labels[0, n - 1] == tokenizer.eos_id
