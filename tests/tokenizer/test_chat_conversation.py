"""What counts as a conversation, and what is said about values that are none."""

from __future__ import annotations

import json

import pytest

from entrenar_core.tokenizer.conversation import ConversationError, conversation_from_value

OPENAI = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
    {"role": "tool", "content": "t"},
]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def fault_of(value: object, **options: object) -> ConversationError:
    with pytest.raises(ConversationError) as error:
        conversation_from_value(value, "row 3", **options)
    return error.value


def test_openai_and_sharegpt_are_two_ways_to_say_the_same() -> None:
    sharegpt = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "u"},
        {"from": "gpt", "value": "a"},
        {"from": "observation", "value": "t"},
    ]
    assert conversation_from_value(sharegpt, "x") == conversation_from_value(OPENAI, "x")
    assert list(conversation_from_value(OPENAI, "x").messages) == OPENAI


@pytest.mark.parametrize("wrap", [json.dumps, lambda m: {"messages": m}, lambda m: {"conversations": m}, tuple])
def test_messages_may_come_wrapped(wrap: object) -> None:
    assert conversation_from_value(wrap(OPENAI), "x") == conversation_from_value(OPENAI, "x")  # type: ignore[operator]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS), [json.dumps(TOOLS[0])]])
def test_tools_may_be_objects_or_json(tools: object) -> None:
    assert conversation_from_value(OPENAI, "x", tools=tools).tools == tuple(TOOLS)
    assert conversation_from_value({"messages": OPENAI, "tools": tools}, "x").tools == tuple(TOOLS)


@pytest.mark.parametrize("tools", [None, [], ""])
def test_no_tools_are_no_tools(tools: object) -> None:
    assert conversation_from_value(OPENAI, "x", tools=tools).tools is None


def test_keys_without_a_value_are_left_out() -> None:
    value = [{"role": "assistant", "content": "a", "tool_calls": None, "name": None}]
    assert conversation_from_value(value, "x").messages == ({"role": "assistant", "content": "a"},)


def test_keys_without_a_value_are_left_out_at_any_depth() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm", "a": None}}, "id": None}
    schema = {"name": "weather", "parameters": {"properties": {"city": {"enum": ["Ulm", None]}, "a": None}}}
    value = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}], "tools": [schema]}
    conversation = conversation_from_value(value, "x")
    assert conversation.messages[0]["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    ]
    expected = ({"name": "weather", "parameters": {"properties": {"city": {"enum": ["Ulm", None]}}}},)
    assert conversation.tools == expected, "an item of a list is no key"
    assert conversation_from_value(value["messages"], "x", tools=value["tools"]) == conversation


def test_a_null_in_json_text_is_meant() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": None}}}
    schema = {"name": "weather", "parameters": {"default": None}}
    value = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}], "tools": [schema]}
    for given, tools in ((json.dumps(value), None), (json.dumps(value["messages"]), json.dumps([schema]))):
        conversation = conversation_from_value(given, "x", tools=tools)
        assert conversation.messages[0]["tool_calls"] == [call]
        assert conversation.tools == (schema,)


def test_content_may_be_missing_beside_a_call_of_a_tool() -> None:
    call = {"function": {"name": "weather", "arguments": "{}"}}
    (message,) = conversation_from_value([{"role": "assistant", "content": None, "tool_calls": [call]}], "x").messages
    assert message == {"role": "assistant", "content": "", "tool_calls": [call]}


def test_a_function_call_of_sharegpt_is_a_call_of_a_tool() -> None:
    value = [{"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'}]
    (message,) = conversation_from_value(value, "x").messages
    assert message["role"] == "assistant"
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    ]


@pytest.mark.parametrize(
    ("control", "expected"), [({"train": False}, False), ({"weight": 0}, False), ({"weight": 1}, True), ({}, None)]
)
def test_controls_of_turns_are_read(control: dict[str, object], expected: bool | None) -> None:
    (message,) = conversation_from_value([{"role": "assistant", "content": "a"} | control], "x").messages
    assert message.get("train") is expected


CASES: list[tuple[object, str, str]] = [
    (None, "no messages", "row 3: expected a list of messages, found nothing"),
    ([], "no messages", "row 3: expected a list of messages, found an empty list"),
    (7, "no messages", "row 3: expected a list of messages, found int"),
    ({"chat": OPENAI}, "no messages", "row 3: expected a list of messages, found nothing"),
    ("hello", "no messages", "row 3: expected messages, found text that is no JSON"),
    (["hello"], "a malformed message", "row 3: message 1: expected a mapping with role and content, found str"),
    (
        [OPENAI[0], {"speaker": "u", "text": "x"}],
        "a message without a role",
        "row 3: message 2: the message has no usable role: its keys are speaker, text",
    ),
    ([{"role": 3, "content": "x"}], "a message without a role", "no usable role: it is 3"),
    ([{"role": "<|im_end|>", "content": "x"}], "a message without a role", "no usable role: it is '<|im_end|>'"),
    ([{"role": "user"}], "a message without content", "row 3: message 1: the user message has no content"),
    ([{"role": "user", "content": 3}], "a malformed message", "content is a int, not text"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        "a malformed message",
        "row 3: message 1, part 1: content has a part of type 'image_url'; only text can be trained on",
    ),
    ([{"role": "user", "content": ["x"]}], "a malformed message", "content has a part that is a str"),
    ([{"role": "assistant", "tool_calls": [{}]}], "a malformed message", "tool call 1 has no name of a function"),
    ([{"role": "assistant", "tool_calls": 3}], "a malformed message", "tool_calls is a int, not a list of calls"),
    ([{"role": "assistant", "content": "x", "weight": 0.5}], "a malformed message", "weight is 0.5, not 0 or 1"),
    ([{"role": "assistant", "content": "x", "train": "no"}], "a malformed message", "train is 'no', not true or"),
    ([{"role": "user", "content": "x", "train": True}], "a malformed message", "train: true on a user message"),
    ([{"from": "function_call", "value": "{"}], "no messages", "found text that is no JSON"),
]


@pytest.mark.parametrize(("value", "reason", "message"), CASES)
def test_a_fault_is_named_with_its_turn(value: object, reason: str, message: str) -> None:
    fault = fault_of(value)
    assert fault.reason == reason
    assert message in str(fault)


@pytest.mark.parametrize(
    ("value", "tools", "place"), [(["hello"], None, "message 1"), (OPENAI, 7, "tools"), (OPENAI, [7], "tools 1")]
)
def test_without_a_place_of_the_value_the_turn_comes_first(value: object, tools: object, place: str) -> None:
    with pytest.raises(ConversationError) as error:
        conversation_from_value(value, "", tools=tools)
    assert error.value.where == place


@pytest.mark.parametrize("tools", [7, [7], "{", {"name": "x"}])
def test_tools_that_are_no_schemas_are_named(tools: object) -> None:
    assert "row 3: tools" in str(fault_of(OPENAI, tools=tools))


@pytest.mark.parametrize(
    "value",
    ["[" * 100_000 + "]" * 100_000, [{"role": "assistant", "content": "", "tool_calls": [{"function": "f"}]}]],
    ids=["nested too deeply", "a function that is only a name"],
)
def test_what_no_parser_takes_refuses_the_row_and_not_the_run(value: object) -> None:
    with pytest.raises(ConversationError):
        conversation_from_value(value, "row 1")
