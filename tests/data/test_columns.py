"""Which columns are trained on: named ones, well-known names, the only text; and what is said when it is not clear."""

from __future__ import annotations

import pytest

from entrenar_core.data.columns import ColumnRequest, PromptColumns, TextColumn, choose_columns
from entrenar_core.data.parquet_source import Column
from entrenar_core.errors import DataError


def table(*names: str, **typed: str) -> dict[str, Column]:
    columns = {name: Column(name, "string", is_text=True) for name in names}
    return columns | {name: Column(name, type_, is_text=False) for name, type_ in typed.items()}


def choose(columns: dict[str, Column], **request: object) -> TextColumn | PromptColumns:
    return choose_columns(columns, ColumnRequest(**request), where="train.parquet")  # type: ignore[arg-type]


# -- named ----------------------------------------------------------------------------------------------------------


def test_a_named_text_column_is_taken_even_where_names_would_say_otherwise() -> None:
    assert choose(table("text", "story"), text="story") == TextColumn("story")


def test_named_prompt_and_completion_are_taken() -> None:
    assert choose(table("text", "a", "b"), prompt="a", completion="b") == PromptColumns("a", "b")


def test_a_missing_named_column_lists_what_there_is_and_the_nearest_name() -> None:
    with pytest.raises(DataError) as error:
        choose(table("question", "answer", id="int64"), prompt="quesiton", completion="answer")
    assert "data.prompt: there is no column 'quesiton'" in error.value.message
    assert "did you mean 'question'?" in str(error.value.hint)
    assert "question (string), answer (string), id (int64)" in str(error.value.hint)


def test_a_column_that_differs_only_in_case_is_suggested() -> None:
    with pytest.raises(DataError, match="did you mean 'TEXT'"):
        choose(table("TEXT"), text="text")


def test_a_named_column_that_is_not_text_states_its_type() -> None:
    with pytest.raises(DataError, match=r"data\.text: column 'label' is int64, not text"):
        choose(table("body", label="int64"), text="label")


@pytest.mark.parametrize(("given", "absent"), [("prompt", "completion"), ("completion", "prompt")])
def test_prompt_and_completion_come_together(given: str, absent: str) -> None:
    with pytest.raises(DataError, match=rf"data\.{given} is set, but data\.{absent} is not"):
        choose(table("question", "answer"), **{given: "question"})


def test_text_and_prompt_exclude_each_other() -> None:
    with pytest.raises(DataError, match="either"):
        choose(table("a", "b", "c"), text="a", prompt="b", completion="c")


def test_one_column_cannot_be_prompt_and_completion() -> None:
    with pytest.raises(DataError, match="same column"):
        choose(table("a", "b"), prompt="a", completion="a")


def test_without_inference_a_column_must_be_named() -> None:
    with pytest.raises(DataError, match="no column is named") as error:
        choose(table("text"), auto_infer_types=False)
    assert "data.auto_infer_types: true" in str(error.value.hint)


# -- inferred by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "content", "Text"])
def test_a_well_known_text_column_is_found_among_others(name: str) -> None:
    assert choose(table(name, "url", id="int64")) == TextColumn(name)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("prompt", "completion"),
        ("prompt", "response"),
        ("question", "answer"),
        ("Question", "Answer"),
        ("instruction", "output"),
        ("instruction", "response"),
        ("input", "output"),
        ("query", "response"),
    ],
)
def test_well_known_pairs_are_found_in_any_order(prompt: str, completion: str) -> None:
    assert choose(table("source_url", completion, prompt, id="int64")) == PromptColumns(prompt, completion)


def test_alpacas_three_columns_are_ambiguous_and_never_silently_lose_the_input() -> None:
    with pytest.raises(DataError) as error:
        choose(table("instruction", "input", "output"))
    assert "prompt 'instruction' + completion 'output'" in error.value.message
    assert "prompt 'input' + completion 'output'" in error.value.message
    assert "data.prompt" in str(error.value.hint)
    assert "data.completion" in str(error.value.hint)


def test_a_pair_beside_a_text_column_is_ambiguous() -> None:
    with pytest.raises(DataError) as error:
        choose(table("text", "prompt", "completion"))
    assert "text 'text'" in error.value.message
    assert "data.text" in str(error.value.hint)


def test_two_columns_that_differ_in_case_are_ambiguous() -> None:
    with pytest.raises(DataError, match="several"):
        choose(table("text", "Text"))


def test_a_pair_whose_answer_is_a_number_is_not_replaced_by_training_on_the_question() -> None:
    with pytest.raises(DataError, match="column 'answer' is int64, not text"):
        choose(table("question", answer="int64"))


def test_a_usable_pair_wins_over_one_of_another_type() -> None:
    assert choose(table("text", input="int64", output="int64")) == TextColumn("text")


# -- inferred by type -----------------------------------------------------------------------------------------------


def test_the_only_text_column_is_taken_whatever_its_name() -> None:
    assert choose(table("tale", id="int64", when="timestamp[us]")) == TextColumn("tale")


def test_several_unknown_text_columns_are_an_error_that_shows_them_and_the_keys() -> None:
    with pytest.raises(DataError) as error:
        choose(table("alpha", "beta", id="int64"))
    assert "'alpha', 'beta'" in error.value.message
    assert "data.text" in str(error.value.hint)
    assert "data.prompt" in str(error.value.hint)
    assert error.value.where == "train.parquet"


def test_no_text_column_is_an_error_that_shows_the_types() -> None:
    with pytest.raises(DataError) as error:
        choose(table(id="int64", score="double"))
    assert "no text column" in error.value.message
    assert "id (int64), score (double)" in error.value.message


def test_the_order_of_columns_does_not_change_the_answer() -> None:
    assert choose(table("answer", "x", "question")) == choose(table("question", "answer", "x"))


def test_a_wide_table_is_not_listed_whole() -> None:
    with pytest.raises(DataError) as error:
        choose(table(*(f"column{index}" for index in range(500))), text="text")
    assert "column19 (string) and 480 more" in str(error.value.hint)
