"""Rows as conversations, and instructions as plain text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entrenar_core.data.conversations import alpaca_prompt, chat_row, instruction_row, instruction_text, prompt_row
from entrenar_core.data.row_encoders import REFUSED_EMPTY, REFUSED_NULL
from entrenar_core.tokenizer.conversation import Conversation, ConversationError

OPENAI = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The fox."}]
SHAREGPT = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "The fox."}]


def two_turns(question: str, answer: str) -> Conversation:
    return Conversation(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


# -- chat -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        OPENAI,
        SHAREGPT,
        json.dumps(OPENAI),
        json.dumps(SHAREGPT),
        {"messages": OPENAI},
        {"conversations": SHAREGPT},
    ],
    ids=["OpenAI", "ShareGPT", "OpenAI as JSON", "ShareGPT as JSON", "nested OpenAI", "nested ShareGPT"],
)
def test_the_forms_of_a_conversation_are_one(messages: Any) -> None:
    assert chat_row({"messages": messages}, "row 1") == two_turns("Who?", "The fox.")


@pytest.mark.parametrize("tools", [[{"name": "look_up"}], json.dumps([{"name": "look_up"}])])
def test_tools_stand_in_a_column_of_their_own(tools: Any) -> None:
    found = chat_row({"messages": OPENAI, "tools": tools}, "row 1")
    assert isinstance(found, Conversation)
    assert found.tools == ({"name": "look_up"},)


@pytest.mark.parametrize("tools", [None, "", []])
def test_a_row_without_tools_has_none(tools: Any) -> None:
    assert chat_row({"messages": OPENAI, "tools": tools}, "row 1") == two_turns("Who?", "The fox.")


@pytest.mark.parametrize(("messages", "reason"), [(None, REFUSED_NULL), ([], REFUSED_EMPTY), ("", REFUSED_EMPTY)])
def test_a_row_without_messages_is_refused(messages: Any, reason: str) -> None:
    assert chat_row({"messages": messages}, "row 1") == reason


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("not JSON", "text that is no JSON"),
        ([{"content": "Who?"}], "no usable role: its keys are content"),
        ([{"role": "user"}], "the user message has no content"),
        (["Who?"], "expected a mapping with role and content"),
        ([{"role": "user", "content": 3}], "content is a int, not text"),
    ],
)
def test_what_is_no_conversation_says_which_turn_of_which_row(messages: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message) as raised:
        chat_row({"messages": messages}, "a.jsonl, row 7")
    assert str(raised.value.where).startswith("a.jsonl, row 7")


# -- prompts and instructions as turns ------------------------------------------------------------------------------


def test_a_prompt_is_the_users_turn_and_its_completion_the_assistants() -> None:
    assert prompt_row({"prompt": "Who?", "completion": "The fox."}, "row 1") == two_turns("Who?", "The fox.")


@pytest.mark.parametrize("more", [None, "", " \n"])
def test_an_instruction_without_an_input_is_the_users_turn(more: str | None) -> None:
    row = {"instruction": "Name it.", "input": more, "output": "A fox."}
    assert instruction_row(row, "row 1") == two_turns("Name it.", "A fox.")


def test_the_input_stands_below_the_instruction_after_a_blank_line() -> None:
    row = {"instruction": "Name it.", "input": "It is red.", "output": "A fox."}
    assert instruction_row(row, "row 1") == two_turns("Name it.\n\nIt is red.", "A fox.")


def test_data_without_a_column_for_the_input_have_none() -> None:
    assert instruction_text({"instruction": "Name it."}) == "Name it."


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (None, "The fox.", REFUSED_NULL),
        ("Who?", None, REFUSED_NULL),
        ("", "The fox.", REFUSED_EMPTY),
        ("Who?", " \n", REFUSED_EMPTY),
    ],
)
def test_a_pair_with_one_side_missing_is_refused(question: str | None, answer: str | None, reason: str) -> None:
    assert prompt_row({"prompt": question, "completion": answer}, "row 1") == reason
    assert instruction_row({"instruction": question, "output": answer}, "row 1") == reason


def test_an_input_alone_is_no_instruction() -> None:
    assert instruction_row({"instruction": None, "input": "It is red.", "output": "A fox."}, "row 1") == REFUSED_NULL


# -- instructions as plain text -------------------------------------------------------------------------------------


def test_the_headings_are_those_of_alpaca() -> None:
    row = {"instruction": "Name it.", "input": "It is red."}
    assert alpaca_prompt(row) == "### Instruction:\nName it.\n\n### Input:\nIt is red.\n\n### Response:\n"


@pytest.mark.parametrize("row", [{}, {"input": None}, {"input": ""}, {"input": "  "}])
def test_without_an_input_there_is_no_heading_for_it(row: dict[str, Any]) -> None:
    assert alpaca_prompt({"instruction": "Name it.", **row}) == "### Instruction:\nName it.\n\n### Response:\n"
