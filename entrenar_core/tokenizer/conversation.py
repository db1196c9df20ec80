"""A conversation as data holds it, in OpenAI's form (role, content) or ShareGPT's (from, value), checked and made one.

[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "train": false}]
[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from entrenar_core.errors import DataError

ASSISTANT = "assistant"
ROLE_OF: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "function_call": ASSISTANT,
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""Names that data sets give to the speakers; a name that is not here goes to the template as it is."""
KNOWN_ROLES = ("system", "developer", "user", ASSISTANT, "tool", "ipython")
"""Roles that templates know."""

NO_MESSAGES = "no messages"
NO_ROLE = "a message without a role"
NO_CONTENT = "a message without content"
MALFORMED = "a malformed message"
TOO_DEEP = "values that are nested too deeply"
"""Reasons, to count by, for which a conversation is refused before a template sees it."""

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_CONTROLS = ("train", "weight")
_SHAREGPT_NAMES = {"from": "role", "value": "content"}


class ConversationError(DataError):
    """A value is no conversation; `reason` is short and the same for all values with the same fault."""

    def __init__(self, reason: str, message: str, *, where: str, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.reason = reason


@dataclass(frozen=True)
class Conversation:
    """What was said, in order, and the tools that were offered.

    Attributes:
        messages: each has a `role` and a `content`: text, or a list of `{type: text, text: ...}`. It may have
            `reasoning_content`, `tool_calls`, `tool_call_id`, `name`, and `train: bool`, which says whether a turn of
            the assistant is trained on.
        tools: JSON schemas of functions.

    Keys without a value are left out of both, but for those in values that came as JSON text, where null is meant.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None


def conversation_from_value(value: object, where: str, *, tools: object = None) -> Conversation:
    """The conversation that a cell of a `messages` column holds.

    Args:
        value: a list of messages, JSON text of one, or a mapping with `messages` (or `conversations`) and `tools`.
        where: file, row and column, for messages; may be empty.
        tools: a list of JSON schemas or JSON text of one, as a `tools` column holds it.

    Raises:
        ConversationError: says what is wrong with which turn.
    """
    value, tools = _parsed(_without_nulls(value), where), _without_nulls(tools)
    if isinstance(value, Mapping):
        tools = value.get("tools") if tools is None else tools
        value = value.get("messages", value.get("conversations"))
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        found = "an empty list" if isinstance(value, Sequence) and not isinstance(value, str) else _kind(value)
        raise ConversationError(NO_MESSAGES, f"expected a list of messages, found {found}", where=where)
    inside = f"{where}: " if where else ""
    messages = tuple(_message(message, f"{inside}message {index + 1}") for index, message in enumerate(value))
    return Conversation(messages, _tools(tools, f"{inside}tools"))


def advice_on_role(role: str) -> str:
    """What a role that is not known may have been meant as."""
    near = get_close_matches(role.lower(), [*KNOWN_ROLES, *ROLE_OF], n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(KNOWN_ROLES)}"


def _without_nulls(value: Any) -> Any:
    """`value` without keys that are null: a column of structs gives each row the keys of all rows."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


def _parsed(value: object, where: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ConversationError(
            NO_MESSAGES, f"expected messages, found text that is no JSON ({error})", where=where
        ) from error


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _message(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConversationError(
            MALFORMED, f"expected a mapping with role and content, found {_kind(value)}", where=where
        )
    given = {str(_SHAREGPT_NAMES.get(key, key)): item for key, item in value.items() if item is not None}
    message = {key: item for key, item in given.items() if key not in _CONTROLS}
    message["role"] = _role(given, where)
    if given["role"] == "function_call":
        message = _as_tool_call(message, where)
    message["content"] = _content(message, where)
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], where)
    control = _control(given, message["role"], where)
    return message if control is None else message | {"train": control}


def _role(given: Mapping[str, Any], where: str) -> str:
    name = given.get("role")
    if isinstance(name, str) and _ROLE.fullmatch(name):
        return ROLE_OF.get(name.lower(), name)
    found = f"its keys are {', '.join(given) or 'none'}" if name is None else f"it is {name!r}"
    raise ConversationError(
        NO_ROLE, f"the message has no usable role: {found}", where=where, hint="role: system, user, assistant or tool"
    )


def _content(message: Mapping[str, Any], where: str) -> str | list[dict[str, str]]:
    content = message.get("content")
    if content is None:
        if message.get("tool_calls"):
            return ""
        raise ConversationError(NO_CONTENT, f"the {message['role']} message has no content", where=where)
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ConversationError(MALFORMED, f"content is a {_kind(content)}, not text", where=where)
    return [_part(part, f"{where}, part {index + 1}") for index, part in enumerate(content)]


def _part(part: object, where: str) -> dict[str, str]:
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or part.get("type", "text") != "text" or not isinstance(text, str):
        found = f"of type {part.get('type')!r}" if isinstance(part, Mapping) else f"that is a {_kind(part)}"
        raise ConversationError(MALFORMED, f"content has a part {found}; only text can be trained on", where=where)
    return {"type": "text", "text": text}


def _tool_calls(value: object, where: str) -> list[Any]:
    calls = _parsed(value, where)
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise ConversationError(MALFORMED, f"tool_calls is a {_kind(calls)}, not a list of calls", where=where)
    for index, call in enumerate(calls):
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConversationError(MALFORMED, f"tool call {index + 1} has no name of a function", where=where)
    return list(calls)


def _as_tool_call(message: dict[str, Any], where: str) -> dict[str, Any]:
    """ShareGPT's `function_call` turn, whose value is JSON of a call, as an assistant's turn."""
    call = _parsed(message.get("content"), where)
    calls = call if isinstance(call, list) else [call]
    wrapped = [{"type": "function", "function": call} if isinstance(call, Mapping) else call for call in calls]
    return message | {"content": "", "tool_calls": wrapped}


def _control(given: Mapping[str, Any], role: str, where: str) -> bool | None:
    """Whether the message itself says that it is trained on or not."""
    train, weight = given.get("train"), given.get("weight")
    if train is not None and not isinstance(train, bool):
        raise ConversationError(MALFORMED, f"train is {train!r}, not true or false", where=where)
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise ConversationError(MALFORMED, f"weight is {weight!r}, not 0 or 1", where=where)
    control = train if train is not None else bool(weight) if weight is not None else None
    if train and role != ASSISTANT:
        raise ConversationError(
            MALFORMED, f"train: true on a {role} message", where=where, hint="only an assistant's is"
        )
    return control


def _tools(value: object, where: str) -> tuple[Mapping[str, Any], ...] | None:
    tools = _parsed(value, where) if value else None
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ConversationError(MALFORMED, f"expected a list of JSON schemas, found {_kind(tools)}", where=where)
    return tuple(_schema(tool, f"{where} {index + 1}") for index, tool in enumerate(tools))


def _schema(tool: object, where: str) -> Mapping[str, Any]:
    schema = _parsed(tool, where)
    if not isinstance(schema, Mapping):
        raise ConversationError(MALFORMED, f"expected a JSON schema, found {_kind(schema)}", where=where)
    return schema
