"""What is said about a template, a vocabulary and roles that do not go together, each once and with what to do."""

from __future__ import annotations

import pytest

from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES
from entrenar_core.tokenizer.chat import MOST_ROLES, ChatEncoder, ChatRefusal, conversation_from_value
from entrenar_core.tokenizer.chat_template import DEFAULT_NAME, ChatTemplate
from tests.tokenizer.chat_families import CHATML, LLAMA2, MISTRAL, PHI3, encode, learned, real_template
from tests.tokenizer.small import byte_level
from tests.tokenizer.test_chat_masks import REAL_TOOL_USE, TALK, TOOL_USE, TOOLS

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_the_template_that_a_notice_advises_ends_with_a_stop_token() -> None:
    encoder = PHI3.encoder(BUILTIN_TEMPLATES["chatml"])
    learned(encoder, TALK)
    assert "ends with '<|end|>', such as phi3, in data.chat_template" in encoder.notices[0]
    encoder = PHI3.encoder(BUILTIN_TEMPLATES["phi3"])
    learned(encoder, TALK)
    assert not encoder.notices


def test_a_vocabulary_without_stop_tokens_gets_no_advice() -> None:
    encoder = ChatEncoder(byte_level(), ChatTemplate("chatml", BUILTIN_TEMPLATES["chatml"]))
    learned(encoder, TALK)
    assert encoder.notices[0].endswith("it is trained as text")


@pytest.mark.parametrize("content", [None, "I look."])
@pytest.mark.parametrize("train_turns", ["all", "last"])
def test_a_template_that_leaves_out_a_call_of_a_tool_is_named_with_a_way_out(
    content: str | None, train_turns: str
) -> None:
    encoder = LLAMA2.encoder(BUILTIN_TEMPLATES["zephyr"], train_turns=train_turns)
    messages = [
        message | {"content": content} if "tool_calls" in message else message for message in map(dict, TOOL_USE)
    ]
    for _ in range(2):
        assert learned(encoder, messages)[-1] == "3 degrees</s>"
    assert encoder.notices == (
        "the chat template 'of the test' does not write the tool calls of the assistant: the model does not learn "
        "them; use the template of a model with tools, or chatml or llama3, in data.chat_template",
    )


def test_the_template_of_the_model_has_no_name_in_a_notice() -> None:
    encoder = ChatEncoder(LLAMA2.tokenizer(), ChatTemplate(DEFAULT_NAME, BUILTIN_TEMPLATES["zephyr"], eos="</s>"))
    learned(encoder, TOOL_USE)
    assert encoder.notices[0].startswith("the chat template of the model does not write the tool calls")


@pytest.mark.parametrize("name", REAL_TOOL_USE)
def test_a_template_that_writes_calls_of_tools_gets_no_such_notice(name: str) -> None:
    encoder = REAL_TOOL_USE[name][0].encoder(real_template(name))
    learned(encoder, TOOL_USE, TOOLS)
    assert not [notice for notice in encoder.notices if "tool calls" in notice]


def test_an_answer_without_text_is_named() -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    learned(encoder, [*TALK, {"role": "assistant", "content": ""}])
    assert "leaves out some turns of the assistant, or they are empty" in encoder.notices[0]


UNKNOWN = [
    ("usr", "did you mean user?"),
    ("asistant", "did you mean assistant?"),
    ("System_", "did you mean system?"),
    ("narrator", "known are system, developer, user, assistant, tool, ipython"),
]


@pytest.mark.parametrize(("role", "advice"), UNKNOWN)
def test_a_role_that_is_not_known_is_said_once_with_the_nearest(role: str, advice: str) -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    for _ in range(2):
        encode(encoder, [{"role": role, "content": "Hi"}, *CHAT, {"role": role, "content": "Bye"}])
    assert encoder.notices == (
        f"the role {role!r} is not known: it goes to the chat template as it is and is not trained as the assistant's; "
        f"{advice}",
    )


@pytest.mark.parametrize("role", ["developer", "human", "Bot", "observation", "ipython"])
def test_a_role_by_another_of_its_names_needs_no_notice(role: str) -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    encode(encoder, [{"role": role, "content": "x"}, *CHAT])
    assert not encoder.notices


def test_a_role_that_the_template_names_needs_no_notice() -> None:
    encoder = CHATML.encoder(
        "{% for m in messages %}{% if m.role != 'context' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    encode(encoder, [{"role": "context", "content": "x"}, *CHAT])
    assert not [notice for notice in encoder.notices if "context" in notice]


def test_the_role_of_a_conversation_that_the_template_refuses_is_said_too() -> None:
    encoder = MISTRAL.encoder(real_template("mistralai-Mistral-Nemo-Instruct-2407"))
    (refused,) = encoder.encode_batch([conversation_from_value([{"role": "usr", "content": "Hi"}, CHAT[1]], "test")])
    assert isinstance(refused, ChatRefusal)
    assert "did you mean user?" in encoder.notices[0]


def test_many_roles_make_few_notices() -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    encode(encoder, [*({"role": f"knight{number}", "content": "x"} for number in range(50)), *CHAT])
    assert len(encoder.notices) == MOST_ROLES
