"""Rows as conversations for a chat template, and instructions as plain text for models without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from entrenar_core.data.row_encoders import REFUSED_EMPTY, REFUSED_NULL

if TYPE_CHECKING:
    from entrenar_core.tokenizer.conversation import Conversation


def chat_row(row: Mapping[str, Any], where: str) -> Conversation | str:
    """The messages of a row, in the form of OpenAI or of ShareGPT, as a list or as its JSON text.

    Raises:
        DataError: they are no messages; the message says which turn is wrong.
    """
    from entrenar_core.tokenizer.conversation import conversation_from_value

    messages = row["messages"]
    if messages is None:
        return REFUSED_NULL
    if not messages:
        return REFUSED_EMPTY
    return conversation_from_value(messages, where, tools=row.get("tools"))


def prompt_row(row: Mapping[str, Any], where: str) -> Conversation | str:
    """A prompt and its completion as a user's turn and an assistant's."""
    del where
    return _two_turns(row["prompt"], row["completion"])


def instruction_row(row: Mapping[str, Any], where: str) -> Conversation | str:
    """An instruction, with its input below it, and the output."""
    del where
    return _two_turns(instruction_text(row), row["output"])


def _two_turns(question: str | None, answer: str | None) -> Conversation | str:
    from entrenar_core.tokenizer.conversation import Conversation

    if question is None or answer is None:
        return REFUSED_NULL
    if not question.strip() or not answer.strip():
        return REFUSED_EMPTY
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Conversation(turns)


def instruction_text(row: Mapping[str, Any]) -> str | None:
    """The instruction, then a blank line and the input if there is one; None without an instruction."""
    instruction, more = row["instruction"], row.get("input")
    return f"{instruction}\n\n{more}" if instruction is not None and more and more.strip() else instruction


def alpaca_prompt(row: Mapping[str, Any]) -> str:
    """The headings that Stanford's Alpaca gave instruction data (Taori et al. 2023), up to where the answer begins."""
    more = row.get("input")
    middle = f"### Input:\n{more}\n\n" if more and more.strip() else ""
    return f"### Instruction:\n{row['instruction']}\n\n{middle}### Response:\n"
