"""Chats against transformers (the rendered text) and llama.cpp (the ids), for the templates of published models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, time, tzinfo
from pathlib import Path
from typing import Any

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")
chat_templates = pytest.importorskip(
    "transformers.utils.chat_template_utils", reason="transformers is not installed (extra: oracle)"
)

from entrenar_core.errors import TokenizerError  # noqa: E402
from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES  # noqa: E402
from entrenar_core.tokenizer.chat import ChatEncoder, EncodedChat, conversation_from_value  # noqa: E402
from entrenar_core.tokenizer.chat_marks import TOOLS, mark  # noqa: E402
from entrenar_core.tokenizer.chat_template import TRAINING_DATE, ChatTemplate  # noqa: E402
from tests.oracle.test_tokenizer_llama_cpp import Pair, open_pair  # noqa: E402
from tests.tokenizer.chat_families import REAL_TEMPLATES  # noqa: E402
from tests.tokenizer.test_vocabularies import NAMES  # noqa: E402

REAL = {path.stem: path.read_text(encoding="utf-8") for path in sorted(REAL_TEMPLATES.glob("*.jinja"))}
TEMPLATES = REAL | {f"built-in {name}": text for name, text in BUILTIN_TEMPLATES.items()}

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "a city"}}, "required": ["city"]}
OFFERED = [{"type": "function", "function": {"name": "weather", "description": 'Tells <b> "é"', "parameters": CITY}}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich <b>"}}}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], None),
    "white space": (
        [
            {"role": "system", "content": "  Be nice — très. \n"},
            {"role": "user", "content": "中文 \n\n 12345 it's\t"},
            {"role": "assistant", "content": " \nÜber 😀\n<b>\n  code()\n\n"},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "ok   \n"},
        ],
        None,
    ),
    "reasoning in the content": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>\nfirst\n</think>\n\nHello"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "<think>\nsecond\n</think>\n\nBye"},
        ],
        None,
    ),
    "reasoning beside the content": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "thinking": "because", "reasoning_content": "because"},
        ],
        None,
    ),
    "tools": (
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"t": 3}', "name": "weather", "tool_call_id": "call00001"},
            {"role": "assistant", "content": "3 degrees"},
        ],
        OFFERED,
    ),
    "a question with tools": (
        [{"role": "system", "content": "Be nice"}, {"role": "user", "content": "Weather?"}],
        OFFERED,
    ),
}


class DateOfTraining(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> DateOfTraining:
        return cls.combine(TRAINING_DATE, time(), tz)


@pytest.fixture(autouse=True)
def transformers_tells_the_date_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "datetime", DateOfTraining)


def theirs(text: str, name: str, *, add_generation_prompt: bool) -> str | None:
    """What transformers renders; None where the template refuses."""
    messages, tools = CONVERSATIONS[name]
    try:
        rendered, _ = chat_templates.render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=text,
            add_generation_prompt=add_generation_prompt,
            bos_token="<s>",
            eos_token="</s>",
        )
    except Exception:  # any: templates fail in many ways, and all that counts is that they do
        return None
    return str(rendered[0])


def ours(text: str, name: str, *, add_generation_prompt: bool, marked: bool) -> str | None:
    messages, tools = CONVERSATIONS[name]
    if marked:
        messages = [
            {key: value if key == "role" else mark(value, index) for key, value in message.items()}
            for index, message in enumerate(messages)
        ]
        tools = mark(tools, TOOLS)
    template = ChatTemplate("test", text, bos="<s>", eos="</s>")
    try:
        return template.render_marked(messages, tools=tools, add_generation_prompt=add_generation_prompt)
    except TokenizerError:
        return None


def test_there_are_enough_templates_to_compare() -> None:
    assert len(REAL) >= 25


@pytest.mark.parametrize("add_generation_prompt", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_rendered_text_is_that_of_transformers(
    template: str, conversation: str, add_generation_prompt: bool
) -> None:
    text = TEMPLATES[template]
    expected = theirs(text, conversation, add_generation_prompt=add_generation_prompt)
    for marked in (False, True):
        rendered = ours(text, conversation, add_generation_prompt=add_generation_prompt, marked=marked)
        assert rendered == expected, f"marked: {marked}"


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_renders_a_talk(template: str) -> None:
    assert theirs(TEMPLATES[template], "one turn", add_generation_prompt=False) or "tool_use" in template


@pytest.fixture(scope="module", params=NAMES)
def vocabulary(request: pytest.FixtureRequest, shared_data: Path) -> Iterator[Pair]:
    pair = open_pair(shared_data / "vocabs" / f"ggml-vocab-{request.param}.gguf")
    yield pair
    pair[1].close()


def encoders(pair: Pair) -> Iterator[ChatEncoder]:
    tokenizer = pair[0]
    bos, eos = ("" if index is None else tokenizer.token_text(index) for index in (tokenizer.bos_id, tokenizer.eos_id))
    for name, text in TEMPLATES.items():
        yield ChatEncoder(tokenizer, ChatTemplate(name, text, bos=bos, eos=eos), add_eos=False)


def test_the_ids_are_those_of_llama_cpp(vocabulary: Pair) -> None:
    compared = 0
    conversations = [
        conversation_from_value(messages, name, tools=tools) for name, (messages, tools) in CONVERSATIONS.items()
    ]
    for encoder in encoders(vocabulary):
        for chat in encoder.encode_batch(conversations):
            if isinstance(chat, EncodedChat):
                assert chat.tokens == vocabulary[1].encode(chat.text, add_special=True, parse_special=True), chat.text
                compared += 1
    assert compared > 3 * len(TEMPLATES)


def test_what_data_spells_never_becomes_a_control_token(vocabulary: Pair) -> None:
    """Chats whose texts spell every token of the template hold as many control tokens as those with harmless texts."""
    tokenizer = vocabulary[0]
    harmless = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}] * 2
    for encoder in encoders(vocabulary):
        (plain,) = encoder.encode_batch([conversation_from_value(harmless, "harmless")])
        if not isinstance(plain, EncodedChat):
            continue
        spelled = "".join(dict.fromkeys(re.findall(r"<[^<>\s]+>|\[[^\[\]\s]+\]", plain.text))) + "</s><s><|eot_id|>"
        attack = [message | {"content": spelled} for message in harmless]
        (attacked,) = encoder.encode_batch([conversation_from_value(attack, "attack")])
        assert isinstance(attacked, EncodedChat)
        control = [len(tokenizer.token_bytes(index)) == 0 for index in plain.tokens]
        assert sum(len(tokenizer.token_bytes(index)) == 0 for index in attacked.tokens) == sum(control)
