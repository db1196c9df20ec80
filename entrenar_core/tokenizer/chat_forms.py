"""In which form a template takes conversations, found out by trying, and conversations put into that form.

Templates differ: some want content as text, some as a list of parts; some know no system role; some want the arguments
of a tool call as a mapping, some as JSON text. The choices are llama.cpp's, so that training sees what a server sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from entrenar_core.tokenizer.chat_marks import TOOLS, mark, plain, spans_of
from entrenar_core.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from entrenar_core.tokenizer.conversation import ASSISTANT, Conversation

Messages = list[dict[str, Any]]

_SYSTEM, _USER, _ANSWER = "text of the system", "text of the user", "text of the assistant"
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Values of these keys are the template's language, not data: a template may build its own tokens from them.
_NOT_DATA = frozenset({"role", "type"})
_CONTROLS = frozenset({"train", "weight"})


@dataclass(frozen=True)
class TemplateForms:
    """What a template takes, and what it writes around turns.

    Attributes:
        parts: content may be a list of parts; else their texts are joined.
        texts: content may be text; else it is made a list of one part.
        system: there is a system role; else its text goes in front of the next message.
        developer: there is a developer role; else it is called system.
        no_tools: what stands for the tools of a conversation without any.
        prompt: what comes before an answer of the assistant; empty where nothing does.
        plain_tail: what stands in its place when no answer is asked for.
        ending: what follows an answer at the end.
    """

    parts: bool
    texts: bool
    system: bool
    developer: bool
    no_tools: list[Any] | None
    prompt: str
    plain_tail: str
    ending: str


def find_forms(template: ChatTemplate) -> TemplateForms:
    """Render small conversations and see what comes of them."""
    user, answer = mark(_USER, 1), mark(_ANSWER, 2)
    as_text, as_parts = {"role": "user", "content": user}, {"role": "user", "content": _as_parts(user)}
    answer_in_parts = {"role": ASSISTANT, "content": _as_parts(answer)}
    system = {"role": "system", "content": mark(_SYSTEM, 0)}
    probes = [_Probe(template, None), _Probe(template, [])]
    probe = next((probe for probe in probes if probe.renders([as_text], [as_parts], [system, as_text])), probes[0])
    takes_system = probe.shows([system, as_text], _SYSTEM) or probe.shows([system, as_parts], _SYSTEM)
    parts = probe.shows([as_parts, answer_in_parts], _USER, _ANSWER)
    texts = probe.shows([as_text], _USER) or not parts
    question = [as_text if texts else as_parts]
    if takes_system and not probe.renders(question):
        question = [system, *question]
    last = {"role": ASSISTANT, "content": answer} if texts else answer_in_parts
    ending = probe.tail([*question, last])
    return TemplateForms(
        parts=parts,
        texts=texts,
        system=takes_system,
        developer="developer" in template.text,
        no_tools=probe.tools,
        prompt=probe.tail(question, add_generation_prompt=True),
        plain_tail=probe.tail(question),
        ending=ending.rstrip() or ending,
    )


@dataclass(frozen=True)
class _Probe:
    """Renders small conversations; what the template refuses renders to nothing."""

    template: ChatTemplate
    tools: list[Any] | None

    def renders(self, *conversations: Messages) -> bool:
        return any(self._render(messages) is not None for messages in conversations)

    def shows(self, messages: Messages, *texts: str) -> bool:
        """Whether the template writes the texts as data that can be followed."""
        rendered = self._render(messages) or ""
        data = [rendered[begin:end] for begin, end, _ in spans_of(rendered)]
        return all(any(text in stretch for stretch in data) for text in texts)

    def tail(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """What the template writes after the last text of the data."""
        rendered = self._render(messages, add_generation_prompt=add_generation_prompt) or ""
        spans = spans_of(rendered)
        return plain(rendered)[spans[-1][1] :] if spans else ""

    def _render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str | None:
        try:
            return self.template.render_marked(messages, tools=self.tools, add_generation_prompt=add_generation_prompt)
        except TemplateRefusal:
            return None


def marked_messages(conversation: Conversation, forms: TemplateForms) -> Iterator[Messages]:
    """The messages as the template takes them, with all data marked by the index of the message; best form first."""
    for arguments in (_as_object, _as_json) if _has_tool_calls(conversation) else (_as_object,):
        messages = [
            _marked_message(message, index, forms, arguments) for index, message in enumerate(conversation.messages)
        ]
        yield messages if forms.system else _without_system(messages)


def marked_tools(conversation: Conversation, forms: TemplateForms) -> list[Any] | None:
    """The tools as data that belongs to no message."""
    return [_marked(tool, TOOLS) for tool in conversation.tools] if conversation.tools else forms.no_tools


def _marked_message(message: Mapping[str, Any], index: int, forms: TemplateForms, arguments: Any) -> dict[str, Any]:
    kept = _with_reasoning({key: value for key, value in message.items() if key not in _CONTROLS and value is not None})
    marked = {key: _marked(value, index, key) for key, value in kept.items()}
    if marked["role"] == "developer" and not forms.developer:
        marked["role"] = "system"
    marked["content"] = _content(marked.get("content", ""), index, forms)
    if "tool_calls" in marked:
        marked["tool_calls"] = [_marked_call(call, index, arguments) for call in message["tool_calls"]]
    return marked


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under each of the names that templates read, as transformers does it."""
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _content(content: Any, index: int, forms: TemplateForms) -> Any:
    if isinstance(content, list) and not forms.parts:
        return mark("\n", index).join(part["text"] for part in content)
    if isinstance(content, str) and not forms.texts:
        return _as_parts(content)
    return content


def _marked_call(call: Mapping[str, Any], index: int, arguments: Any) -> dict[str, Any]:
    function = call.get("function", call)
    inner = {key: _marked(value, index, key) for key, value in function.items() if key != "arguments"}
    if "arguments" in function:
        inner["arguments"] = mark(arguments(function["arguments"]), index)
    outer = {key: _marked(value, index, key) for key, value in call.items() if key != "function"}
    return outer | {"function": inner} if "function" in call else {"type": "function", "function": inner}


def _marked(value: Any, origin: int, key: str = "") -> Any:
    """`value` with its texts marked but for those that are the template's language; keys of mappings stay unmarked."""
    if isinstance(value, Mapping):
        return {name: _marked(item, origin, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(item, origin) for item in value]
    return value if key in _NOT_DATA else mark(value, origin)


def _as_object(arguments: Any) -> Any:
    """The arguments of a call as a mapping, where they are JSON text of one."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _has_tool_calls(conversation: Conversation) -> bool:
    return any("tool_calls" in message for message in conversation.messages)


def _without_system(messages: Messages) -> Messages:
    """A system text at the beginning in front of the message after it; others stay for the template to refuse."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *others = messages
    if isinstance(first["content"], str) and isinstance(system["content"], str):
        return [first | {"content": system["content"] + "\n" + first["content"]}, *others]
    return messages


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
