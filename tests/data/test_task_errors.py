"""What is said when data do not tell what they are for, or what is named does not fit them."""

from __future__ import annotations

import pytest

from entrenar_core.errors import DataError
from tests.data.task_table import CASES, Case, choose, refused, table

# -- ties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            {"text": "text", "prompt": "text", "completion": "text"},
            ["columns: {text: text}", "columns: {prompt: prompt, completion: completion}"],
        ),
        ({"text": "text", "Text": "text"}, ["columns: {text: Text}", "columns: {text: text}"]),
        ({"text": "text", "content": "text"}, ["columns: {text: text}", "columns: {text: content}"]),
        (
            {"text": "text", "messages": "messages"},
            ["columns: {text: text}", "columns: {messages: messages}"],
        ),
        (
            {"problem": "text", "solution": "text", "messages": "messages"},
            ["columns: {prompt: problem, completion: solution}", "columns: {messages: messages}"],
        ),
        (
            {"text": "text", "label": "codes", "sentiment": "category"},
            ["columns: {text: text, label: label}", "columns: {text: text, label: sentiment}"],
        ),
        (
            {"text": "text", "label": "codes", "score": "number"},
            ["columns: {text: text, label: label}", "columns: {text: text, target: score}"],
        ),
        (
            {"premise": "text", "hypothesis": "text", "label": "codes"},
            ["columns: {text: premise, label: label}", "columns: {text: hypothesis, label: label}"],
        ),
        (
            {"question": "text", "answer": "text", "label": "flag"},
            ["columns: {prompt: question, completion: answer}", "columns: {text: question, label: label}"],
        ),
        (
            {"alpha": "text", "beta": "text", "id": "id"},
            ["columns: {text: alpha}", "columns: {text: beta}", "columns: {prompt: alpha, completion: beta}"],
        ),
        (
            {"content": "text", "score": "number", "source": "category"},
            ["columns: {text: content}", "columns: {text: content, target: score}"],
        ),
        ({"Questions": "text", "Answers": "text"}, ["columns: {prompt: Questions, completion: Answers}"]),
        ({"Answers": "text", "Questions": "text"}, ["columns: {prompt: Questions, completion: Answers}"]),
        ({"q": "text", "a": "text"}, ["columns: {prompt: q, completion: a}"]),
        ({"zeta": "text", "answer": "text"}, ["columns: {prompt: zeta, completion: answer}"]),
        (
            {"tale": "text", "genre": "category", "readers": "count"},
            ["columns: {text: tale}", "columns: {text: tale, label: genre}", "columns: {text: tale, target: readers}"],
        ),
        (
            {"text": "text", "score": "number", "url": "url", "dump": "category"},
            ["columns: {text: text}", "columns: {text: text, target: score}"],
        ),
        ({"text": "text", "label": "codes", "label_text": "stars"}, ["columns: {text: text, label: label_text}"]),
        (
            {"my story": "text", "yes": "text"},
            ['columns: {text: "my story"}', 'columns: {text: "yes"}'],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_tie_is_an_error_with_the_line_of_yaml_for_each_choice(columns: dict[str, str], lines: list[str]) -> None:
    error = refused(table(**columns))
    assert "several choices of columns fit" in error.message
    assert set(lines) <= {line.strip() for line in str(error.hint).splitlines()}


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            {"prompt": "text", "chosen": "text", "rejected": "text"},
            ["columns: {prompt: prompt, completion: chosen}", "columns: {text: chosen}"],
        ),
        (
            {"system": "preamble", "question": "text", "chosen": "text", "rejected": "text"},
            ["columns: {prompt: question, completion: chosen}", "columns: {text: chosen}"],
        ),
        ({"chosen": "text", "rejected": "text"}, ["columns: {text: chosen}"]),
        (
            {"prompt": "text", "Chosen": "messages", "Rejected": "messages", "category": "category"},
            ["columns: {messages: Chosen}"],
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_preferences_are_explained_and_only_what_was_chosen_is_offered(
    columns: dict[str, str], lines: list[str]
) -> None:
    error = refused(table(**columns))
    assert "preference pairs, which are not trained in this release" in error.message
    assert [line.strip() for line in str(error.hint).splitlines()[1:]] == lines
    for one in error.candidates:
        assert choose(table(**columns), **one.columns).columns == one.columns


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"article": "text", "question": "text", "options": "tags", "answer": "letter"}, "answer"),
        ({"question": "text", "choices": "options", "answerKey": "letter", "id": "url"}, "answerKey"),
        ({"question_stem": "text", "choices": "options", "answerKey": "letter", "topic area": "category"}, "answerKey"),
        ({"question": "text", "subject": "constant", "choices": "tags", "answer": "codes"}, "answer"),
        ({"question": "text", "choices": "tags", "label": "codes"}, "label"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_an_answer_that_only_points_to_an_option_is_not_learned_without_the_options(
    columns: dict[str, str], answer: str
) -> None:
    error = refused(table(**columns))
    options = "options" if "options" in columns else "choices"
    assert f"column {answer!r} points to one of the options in {options!r}, which no task reads" in error.message
    assert "prompt" in str(error.hint)


def test_a_label_beside_options_can_be_learned_when_it_is_named() -> None:
    columns = table("description", options="tags", colour="category")
    assert "columns: {text: description, label: colour}" in str(refused(columns).hint)
    assert choose(columns, text="description", label="colour").names == ("description", "colour")


def test_the_message_of_a_tie() -> None:
    assert str(refused(table("text", "question", "answer"))) == (
        "train.parquet: several choices of columns fit: text: text 'text'; "
        "prompt_completion: prompt 'question' + completion 'answer'\n"
        "  hint: say which one, with one of these lines under data:\n"
        "    columns: {text: text}\n"
        "    columns: {prompt: question, completion: answer}"
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.comment)
def test_each_line_of_a_tie_settles_it(case: Case) -> None:
    """Whatever is chosen, naming it in the YAML gives the same."""
    columns = table(**case.columns)
    try:
        chosen = choose(columns)
    except DataError:
        return
    named = choose(columns, **chosen.columns)
    assert (named.task, named.columns, named.inferred) == (chosen.task, chosen.columns, False)


def test_only_so_many_choices_are_shown() -> None:
    error = refused(table(*(f"text{index}" for index in range(30))))
    assert "and 22 more" in error.message
    assert str(error.hint).count("\n") == 8


# -- wrong types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (
            {"question": "text", "answer": "count"},
            "column 'answer' is number, not text (whole numbers from 3 to 479 in 60 rows: number)",
            "store this one as strings",
        ),
        (
            {"messages": "text"},
            "column 'messages' is text, not messages (9 words on average in 60 rows: text)",
            "columns: {text: messages}",
        ),
        (
            {"conversations": "speech", "text2": "text"},
            "column 'conversations' is struct, not messages (lists of {speaker, text} in 60 rows: struct)",
            "a list of {role, content} or of {from, value}",
        ),
        (
            {"text": "text", "labels": "tags"},
            "column 'labels' is struct, not a label (lists of strings in 60 rows: struct)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "label": "text2"},
            "column 'label' is text, not a label (9 words on average in 60 rows: text)",
            "a label has few values that repeat",
        ),
        (
            {"text": "text", "label": "null"},
            "column 'label' is empty, not a label (all values are null in 60 rows: empty)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "label": "zero"},
            "column 'label' never changes, so there is nothing to predict (always 0 in 60 rows: number)",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "target": "id"},
            "column 'target' is an id, nothing to predict (a sequence of unique whole numbers from 0 to 59 in 60 rows",
            "columns: {text: text}",
        ),
        (
            {"text": "text", "score": "category"},
            "column 'score' is category, not a number (3 distinct values in 60 rows: category)",
            "task: classification and columns: {label: score}",
        ),
        (
            {"text": "text", "class": "number"},
            "column 'class' is number, not a label (numbers from 0 to 7 in 60 rows: number)",
            "task: regression and columns: {target: class}",
        ),
        (
            {"text": "messages"},
            "column 'text' is messages, not text (lists of {role, content} in 60 rows: messages)",
            "task: chat and columns: {messages: text}",
        ),
        (
            {"instruction": "text", "input": "count", "output": "text"},
            "column 'input' is number, not text (whole numbers from 3 to 479 in 60 rows: number)",
            "store this one as strings",
        ),
        (
            {"chat": "turns", "meta_instruction": "preamble", "category": "category"},
            "column 'chat' is struct, not messages",
            "a list of {role, content} or of {from, value}",
        ),
        (
            {"conversation": "in and out", "system": "text", "category": "category"},
            "column 'conversation' is struct, not messages (lists of {input, output} in 60 rows: struct)",
            "columns: {text: system}",
        ),
        (
            {"messages": "turns", "text": "text", "label": "codes"},
            "column 'messages' is struct, not messages",
            "columns: {text: text}",
        ),
        (
            {"question": "text", "context": "turns", "answer": "text"},
            "column 'context' is struct, not text",
            "columns: {text: question}",
        ),
        (
            {"preface": "preamble", "genre": "category"},
            "column 'preface' never changes, so there is nothing to learn from it",
            "name a column of strings",
        ),
        (
            {"messages": "messages", "tools": "count"},
            "column 'tools' is number, not a list of tools (whole numbers from 3 to 479 in 60 rows: number)",
            "a list of JSON schemas",
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_well_known_column_of_the_wrong_type_is_an_error(columns: dict[str, str], message: str, hint: str) -> None:
    kinds = {name: kind.removesuffix("2") for name, kind in columns.items()}
    error = refused(table(**kinds))
    assert message in error.message
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        ({"input": "text", "target": "count"}, {"text": "input", "target": "target"}),
        ({"problem": "text", "solution": "text", "answer": "count"}, {"prompt": "problem", "completion": "solution"}),
        ({"text": "text", "source": "category", "target": "count"}, {"text": "text", "target": "target"}),
    ],
)
def test_a_column_that_is_used_or_not_needed_may_be_of_another_type(
    columns: dict[str, str], roles: dict[str, str]
) -> None:
    assert choose(table(**columns)).columns == roles


# -- nothing fits ---------------------------------------------------------------------------------------------------


def test_no_text_is_an_error_that_shows_the_kinds() -> None:
    error = refused(table(id="id", price="number", image="vector"))
    assert error.message == "there is no text column; columns: id (number), price (number), image (vector)"


def test_short_strings_are_trained_on_only_when_they_are_named() -> None:
    columns = table(country="category", id="id")
    assert "columns: {text: country}" in str(refused(columns).hint)
    assert choose(columns, text="country").columns == {"text": "country"}


def test_a_wide_table_is_not_listed_whole() -> None:
    error = refused(table(*(f"column{index}" for index in range(500))), text="text")
    assert "column19 (text) and 480 more" in str(error.hint)


# -- mistakes in what is named --------------------------------------------------------------------------------------


def test_a_missing_column_lists_what_there_is_and_the_nearest_name() -> None:
    error = refused(table("question", "answer", id="id"), prompt="quesiton", completion="answer")
    assert error.message == "data.prompt: there is no column 'quesiton'"
    assert error.hint == "did you mean 'question'? columns: question (text), answer (text), id (number)"


def test_a_column_that_differs_only_in_case_is_suggested() -> None:
    assert "did you mean 'TEXT'" in str(refused(table("TEXT"), text="text").hint)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"text": "k"}, "data.text: column 'k' is category, not text (4 distinct whole numbers from 0 to 3 in 60 rows"),
        ({"text": "m"}, "data.text: column 'm' is messages, not text (lists of {role, content} in 60 rows"),
        ({"messages": "a"}, "data.columns.messages: column 'a' is text, not messages (9 words on average in 60 rows"),
        ({"text": "a", "label": "b"}, "data.columns.label: column 'b' is text, not a label (9 words"),
        ({"text": "a", "label": "n"}, "data.columns.label: column 'n' is number, not a label (numbers from"),
        ({"text": "a", "target": "b"}, "data.columns.target: column 'b' is text, not a number (9 words"),
        ({"text": "a", "label": "v"}, "data.columns.label: column 'v' is vector, not a label (lists of numbers"),
        ({"text": "e"}, "data.text: column 'e' is empty, not text (all values are null in 60 rows: empty)"),
        ({"label": "nope"}, "data.columns.label: there is no column 'nope'"),
    ],
)
def test_a_named_column_of_the_wrong_kind_says_its_kind_and_why(named: dict[str, str], message: str) -> None:
    columns = table("a", "b", k="codes", m="messages", n="number", v="vector", e="null")
    assert message in refused(columns, **named).message


@pytest.mark.parametrize(("given", "absent"), [("prompt", "completion"), ("completion", "prompt")])
def test_prompt_and_completion_come_together(given: str, absent: str) -> None:
    error = refused(table("question", "answer"), **{given: "question"})
    assert error.message == f"data.{given} is set, but data.{absent} is not"


def test_instruction_needs_an_output() -> None:
    error = refused(table("question", "answer"), instruction="question")
    assert error.message == "data.columns.instruction is set, but data.columns.output is not"


def test_text_and_prompt_exclude_each_other() -> None:
    error = refused(table("a", "b", "c"), text="a", prompt="b", completion="c")
    assert "set either one or the other" in error.message


def test_one_column_cannot_have_two_roles() -> None:
    error = refused(table("a", "b"), prompt="a", completion="a")
    assert error.message == "data.prompt and data.completion are the same column 'a'"


def test_a_role_of_another_task_says_where_it_belongs() -> None:
    error = refused(table("a"), "chat", label="a")
    assert error.message == "data.columns.label is not a column of the task chat, which has messages and tools"
    assert error.hint == "it belongs to classification"


def test_an_unknown_role_lists_the_roles() -> None:
    error = refused(table("a"), response="a")
    assert error.message == "data.columns.response is not a role that a column can have"
    assert "the roles are text, prompt, completion" in str(error.hint)


def test_an_unknown_task_is_spelled_out() -> None:
    error = refused(table("text"), "clasification")
    assert error.message == "data.task: there is no task 'clasification'"
    assert "did you mean classification?" in str(error.hint)


# -- without inference ----------------------------------------------------------------------------------------------


def test_without_inference_columns_must_be_named() -> None:
    error = refused(table("text"), auto=False)
    assert error.message == "no column is named and inference is off"
    assert error.hint == "set data.columns: {text: ...}, or data.auto_infer_types: true; columns: text (text)"


def test_without_inference_a_task_alone_is_not_enough() -> None:
    error = refused(table("text", label="codes"), "classification", auto=False)
    assert "data.columns: {text: ..., label: ...}" in str(error.hint)


def test_without_inference_half_of_the_columns_are_not_enough() -> None:
    error = refused(table("text", label="codes"), auto=False, label="label")
    assert error.message == "data.columns.label is set, but data.text is not, and inference is off"
