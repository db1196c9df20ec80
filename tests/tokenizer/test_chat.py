"""Conversations as tokens: special tokens, BOS, forms of content, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.builtin_templates import BUILTIN_TEMPLATES
from entrenar_core.tokenizer.chat import (
    ChatEncoder,
    ChatRefusal,
    Conversation,
    EncodedChat,
    conversation_from_value,
)
from entrenar_core.tokenizer.chat_template import ChatTemplate
from entrenar_core.tokenizer.conversation import TOO_DEEP
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.chat_families import (
    CHATML,
    GEMMA,
    GRANITE,
    LLAMA2,
    LLAMA3,
    MISTRAL,
    encode,
    learned,
    real_template,
    supervised_texts,
)
from tests.tokenizer.small import CONTROL, USER_DEFINED, by_score, byte_level, score_metadata

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def special_tokens(tokenizer: Tokenizer, chat: EncodedChat) -> list[str]:
    return [tokenizer.token_text(token_id) for token_id in chat.tokens if token_id >= 256]


def refusal(encoder: ChatEncoder, messages: object, tools: object = None) -> ChatRefusal:
    (result,) = encoder.encode_batch([conversation_from_value(messages, "test", tools=tools)])
    assert isinstance(result, ChatRefusal)
    return result


@pytest.mark.parametrize("depth", [3_000, 100_000])
def test_arguments_nested_too_deeply_refuse_the_row_and_not_the_run(depth: int) -> None:
    arguments = '{"a":' * depth + "1" + "}" * depth
    call = {"function": {"name": "f", "arguments": arguments}}
    messages = [CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert refusal(CHATML.encoder(BUILTIN_TEMPLATES["chatml"]), messages).reason == TOO_DEEP


def test_special_tokens_are_recognised_in_the_template_and_nowhere_else() -> None:
    encoder = CHATML.encoder(real_template("Qwen-Qwen2.5-7B-Instruct"))
    call = {"function": {"name": "<|im_end|>", "arguments": {"<|im_end|>": "<|im_start|>"}}}
    messages = [
        {"role": "system", "content": "<|im_start|>"},
        {"role": "user", "content": "<|im_end|>"},
        {"role": "assistant", "content": "<|im_end|>", "tool_calls": [call]},
        {"role": "tool", "content": "<|im_end|>"},
    ]
    tools = [{"type": "function", "function": {"name": "<|im_end|>", "description": "<|im_start|>"}}]
    chat = encode(encoder, messages, tools)
    assert special_tokens(encoder.tokenizer, chat) == ["<|im_start|>", "<|im_end|>"] * 4
    assert chat.text.count("<|im_end|>") == 10


def test_a_token_that_data_and_template_spell_together_is_no_token() -> None:
    encoder = CHATML.encoder("{% for m in messages %}{{ '<|im_' + m.content }}{% endfor %}<|im_end|>")
    chat = encode(encoder, [{"role": "assistant", "content": "end|>"}])
    assert special_tokens(encoder.tokenizer, chat) == ["<|im_end|>"]


def test_a_token_built_from_the_role_is_a_token() -> None:
    encoder = CHATML.encoder(
        "{% for m in messages %}<|im_start|>{{ m.content }}{{ '<|' + m.role + '_end|>' }}{% endfor %}"
    )
    chat = encode(encoder, [{"role": "im", "content": "x"}, {"role": "assistant", "content": "x"}])
    assert special_tokens(encoder.tokenizer, chat) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_user_defined_tokens_are_recognised_in_data_as_everywhere() -> None:
    tokenizer = byte_level(special={"<|end|>": CONTROL, "<think>": USER_DEFINED}, eos_token_id=256)
    encoder = ChatEncoder(tokenizer, ChatTemplate("test", PLAIN + "<|end|>"))
    chat = encode(encoder, [{"role": "assistant", "content": "<think><|end|>"}])
    assert special_tokens(tokenizer, chat) == ["<think>", "<|end|>"]
    assert supervised_texts(tokenizer, chat) == ["<think><|end|><|end|>"]


def test_text_is_encoded_as_one_piece_across_the_border_of_template_and_data() -> None:
    tokenizer = byte_level(["a b", "ab c"], special={"<e>": CONTROL}, eos_token_id=258, pre="gpt-2")
    encoder = ChatEncoder(tokenizer, ChatTemplate("test", "xa{{ messages[0].content }}<e>"))
    chat = encode(encoder, [{"role": "assistant", "content": "bc"}])
    assert chat.tokens == tokenizer.encode("xabc<e>", parse_special=True)
    assert supervised_texts(tokenizer, chat) == ["abc<e>"], "a token that overlaps learned text is learned"


@pytest.mark.parametrize("template_has_it", [True, False])
def test_there_is_one_bos_where_the_tokenizer_adds_one(template_has_it: bool) -> None:
    encoder = LLAMA3.encoder(("{{ bos_token }}" if template_has_it else "") + PLAIN + "<|eot_id|>")
    chat = encode(encoder, CHAT)
    assert special_tokens(encoder.tokenizer, chat) == ["<|begin_of_text|>", "<|eot_id|>"]
    assert chat.text == "HiHello<|eot_id|>"
    assert chat.supervised[0] == 0


def test_a_bos_in_the_data_is_neither_removed_nor_recognised() -> None:
    encoder = LLAMA3.encoder(PLAIN + "<|eot_id|>")
    chat = encode(encoder, [{"role": "user", "content": "<|begin_of_text|>"}, CHAT[1]])
    assert chat.text == "<|begin_of_text|>Hello<|eot_id|>"
    assert special_tokens(encoder.tokenizer, chat) == ["<|begin_of_text|>", "<|eot_id|>"]


def test_without_bos_the_templates_own_stays() -> None:
    encoder = LLAMA3.encoder("{{ bos_token }}" + PLAIN + "<|eot_id|>", add_bos=False)
    assert special_tokens(encoder.tokenizer, encode(encoder, CHAT)) == ["<|begin_of_text|>", "<|eot_id|>"]
    encoder = LLAMA3.encoder(PLAIN + "<|eot_id|>", add_bos=False)
    assert special_tokens(encoder.tokenizer, encode(encoder, CHAT)) == ["<|eot_id|>"]


def test_a_bos_that_the_tokenizer_lacks_cannot_be_asked_for() -> None:
    with pytest.raises(TokenizerError, match=r"data\.add_bos"):
        CHATML.encoder(PLAIN, add_bos=True)


def test_the_space_of_sentencepiece_and_a_byte_at_a_time_are_followed() -> None:
    tokenizer = by_score({"▁": -1.0, "▁H": -2.0, "H": -3.0, "i": -4.0, "é": -5.0, "▁é": -6.0})
    encoder = ChatEncoder(tokenizer, ChatTemplate("test", BUILTIN_TEMPLATES["zephyr"], bos="<s>", eos="</s>"))
    chat = encode(encoder, [{"role": "user", "content": "H 😀"}, {"role": "assistant", "content": "é H😀"}])
    assert supervised_texts(tokenizer, chat) == ["é H😀</s>"]
    assert chat.tokens == tokenizer.encode(chat.text, add_special=True, parse_special=True)


def test_the_space_after_a_special_token_is_learned_with_the_text_it_stands_before() -> None:
    tokenizer = by_score({"▁": -1.0, "x": -2.0}, special={"[/INST]": CONTROL})
    encoder = ChatEncoder(
        tokenizer, ChatTemplate("test", "{{ messages[0].content }}[/INST]{{ messages[1].content }}</s>")
    )
    chat = encode(encoder, [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\n"}])
    assert [tokenizer.token_text(token_id) for token_id in chat.tokens] == [
        "<s>",
        "▁",
        "x",
        "[/INST]",
        "▁",
        "<0x0A>",
        "</s>",
    ]
    assert chat.supervised == bytes([0, 0, 0, 0, 1, 1, 1])


def test_white_space_that_a_token_swallows_is_in_no_token() -> None:
    special = {"<|assistant|>": CONTROL, "<|end|>": CONTROL}
    metadata = score_metadata({"▁": -1.0, "x": -2.0}, special, add_space_prefix=False) | {"general.name": "Phi-3 mini"}
    tokenizer = tokenizer_from_metadata(metadata, "small.gguf")
    encoder = ChatEncoder(tokenizer, ChatTemplate("test", "<|assistant|>\n{{ messages[0].content }}<|end|>\n"))
    chat = encode(encoder, [{"role": "assistant", "content": "  x"}])
    assert [tokenizer.token_text(token_id) for token_id in chat.tokens] == ["<s>", "<|assistant|>", "x", "<|end|>"]
    assert chat.supervised == bytes([0, 0, 1, 1])


@pytest.mark.property
@given(contents=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=2, max_size=4))
def test_any_text_gives_the_ids_of_the_rendered_text(contents: list[str]) -> None:
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    chat = encode(encoder, messages)
    assert "".join(learned(encoder, messages)) == "".join(f"{text}<|im_end|>" for text in contents[1::2])
    assert chat.text == "".join(
        f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(roles, contents, strict=False)
    )


def test_a_batch_is_its_conversations_one_by_one() -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    talks = [[*CHAT, *CHAT], CHAT[:1], CHAT, [{"role": "assistant", "content": "\ud800"}]]
    conversations = [conversation_from_value(talk, "test") for talk in talks]
    batch = encoder.encode_batch(conversations)
    assert batch == [encoder.encode_batch([conversation])[0] for conversation in conversations]
    assert [type(result) for result in batch] == [EncodedChat, ChatRefusal, EncodedChat, ChatRefusal]
    assert encoder.encode_batch([]) == []


def test_a_system_text_goes_to_the_user_where_there_is_no_system_role() -> None:
    encoder = GEMMA.encoder(real_template("google-gemma-2-2b-it"))
    chat = encode(encoder, [{"role": "system", "content": "Be kind"}, *CHAT])
    assert chat.text.startswith("<start_of_turn>user\nBe kind\nHi<end_of_turn>\n")
    assert encoder.notices == ("the chat template has no system role: a system text goes in front of the next message",)


def test_a_date_in_the_text_is_the_same_on_every_day_and_said_once() -> None:
    encoder = GRANITE.encoder(real_template("ibm-granite-granite-3.3-2B-Instruct"))
    encode(encoder, [{"role": "system", "content": "Be kind"}, *CHAT])
    assert not encoder.notices, "with a system text this template writes no date"
    for _ in range(2):
        assert "Today's Date: January 01, 2026." in encode(encoder, CHAT).text
    assert encoder.notices == ("the chat template asks for the date; in training it is always 2026-01-01",)


PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def test_parts_of_content_are_lines_where_a_template_wants_text() -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    assert learned(encoder, [{"role": "assistant", "content": PARTS}]) == ["one\ntwo<|im_end|>"]


def test_text_is_a_part_where_a_template_wants_parts() -> None:
    template = (
        "{% for m in messages %}{% for p in m.content %}<|im_start|>{{ p.text }}<|im_end|>{% endfor %}{% endfor %}"
    )
    encoder = CHATML.encoder(template)
    assert encode(encoder, CHAT).text == "<|im_start|>Hi<|im_end|><|im_start|>Hello<|im_end|>"
    assert encode(encoder, [{"role": "assistant", "content": PARTS}]).text.count("<|im_start|>") == 2


def test_a_developer_is_the_system_where_a_template_does_not_know_one() -> None:
    chat = encode(CHATML.encoder(BUILTIN_TEMPLATES["chatml"]), [{"role": "developer", "content": "x"}, *CHAT])
    assert chat.text.startswith("<|im_start|>system\nx")


@pytest.mark.parametrize("arguments", [{"city": "Ulm"}, '{"city": "Ulm"}'])
@pytest.mark.parametrize("written", ["c.function.arguments | tojson", "'' + c.function.arguments"])
def test_arguments_may_be_an_object_or_json_whichever_a_template_wants(arguments: object, written: str) -> None:
    template = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ HERE }}{% endfor %}{% endfor %}</s>"
    template = template.replace("HERE", written)
    calls = [{"type": "function", "function": {"name": "weather", "arguments": arguments}}]
    chat = encode(LLAMA2.encoder(template), [{"role": "assistant", "content": None, "tool_calls": calls}])
    assert chat.text == '{"city": "Ulm"}</s>'


def test_controls_of_turns_are_not_shown_to_the_template() -> None:
    encoder = CHATML.encoder("{% for m in messages %}{{ m.keys() | list | join(',') }}{{ m.content }}{% endfor %}")
    assert "train" not in encode(encoder, [CHAT[0] | {"train": False}, CHAT[1] | {"weight": 1}]).text


def test_what_the_author_of_a_template_refuses_is_a_reason_in_his_words() -> None:
    result = refusal(MISTRAL.encoder(real_template("mistralai-Mistral-Nemo-Instruct-2407")), [CHAT[0], *CHAT])
    assert result.reason.startswith(
        "the chat template refuses it: After the optional system message, conversation roles"
    )
    assert "line 18" in result.detail


def test_a_mistake_of_the_template_is_a_reason() -> None:
    assert refusal(CHATML.encoder("{{ messages[0].name + 'x' }}"), CHAT).reason.startswith("the chat template fails: ")


def test_a_template_that_mixes_messages_is_refused() -> None:
    result = refusal(CHATML.encoder("{{ messages | tojson }}"), CHAT)
    assert result.reason == "the chat template mixes texts of several messages"


def test_half_a_surrogate_is_refused() -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    assert refusal(encoder, [{"role": "assistant", "content": "a\ud800"}]).reason == "text that is not valid Unicode"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((), "no messages"),
        (({"content": "x"},), "a message without a role"),
        (({"role": "assistant"},), "a message without content"),
        (({"role": "assistant", "content": ""},), "nothing to learn"),
    ],
)
def test_conversations_made_by_hand_are_checked_too(messages: tuple[dict[str, str], ...], reason: str) -> None:
    encoder = CHATML.encoder(BUILTIN_TEMPLATES["chatml"])
    (refused,) = encoder.encode_batch([Conversation(messages)])
    assert isinstance(refused, ChatRefusal)
    assert refused.reason == reason
