"""Small byte-level vocabularies with the special tokens of well-known model families, and masks as text.

With one token a byte, what is supervised can be read as text, exactly to the character.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.tokenizer.chat import ChatEncoder, EncodedChat, conversation_from_value
from entrenar_core.tokenizer.chat_template import ChatTemplate
from entrenar_core.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.small import CONTROL, byte_level

REAL_TEMPLATES = Path(__file__).parent / "templates" / "real"


@dataclass(frozen=True)
class Family:
    """What a model's tokenizer knows: special tokens; which of them are BOS, EOS and end of turn."""

    special: str
    eos: str
    bos: str | None = None
    eot: str | None = None

    def tokenizer(self) -> Tokenizer:
        names = self.special.split()
        keys = {"bos_token_id": self.bos, "eos_token_id": self.eos, "eot_token_id": self.eot}
        ids = {key: 256 + names.index(name) for key, name in keys.items() if name is not None}
        return byte_level(special=dict.fromkeys(names, CONTROL), add_bos_token=self.bos is not None, **ids)

    def encoder(self, template: str, **options: object) -> ChatEncoder:
        """`template`: Jinja text."""
        text = ChatTemplate("of the test", template, bos=self.bos or "", eos=self.eos)
        return ChatEncoder(self.tokenizer(), text, **options)  # type: ignore[arg-type]


CHATML = Family("<|endoftext|> <|im_start|> <|im_end|>", eos="<|im_end|>")
LLAMA3 = Family(
    "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>",
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
)
LLAMA2 = Family("<unk> <s> </s>", bos="<s>", eos="</s>")
MISTRAL = Family(
    "<unk> <s> </s> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS]",
    bos="<s>",
    eos="</s>",
)
GEMMA = Family("<pad> <bos> <eos> <start_of_turn> <end_of_turn>", bos="<bos>", eos="<eos>")
PHI3 = Family("<s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>", eos="<|endoftext|>")
DEEPSEEK = Family(
    "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <think> </think> <｜tool▁calls▁begin｜> "
    "<｜tool▁call▁begin｜> <｜tool▁sep｜> <｜tool▁call▁end｜> <｜tool▁calls▁end｜> <｜tool▁outputs▁begin｜> "
    "<｜tool▁output▁begin｜> <｜tool▁output▁end｜> <｜tool▁outputs▁end｜>",
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
)
COMMAND_R = Family(
    "<BOS_TOKEN> <EOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> "
    "<|SYSTEM_TOKEN|> <|START_RESPONSE|> <|END_RESPONSE|> <|START_THINKING|> <|END_THINKING|> <|START_ACTION|> "
    "<|END_ACTION|>",
    bos="<BOS_TOKEN>",
    eos="<|END_OF_TURN_TOKEN|>",
)
GRANITE = Family("<|end_of_text|> <|start_of_role|> <|end_of_role|> <|tool_call|>", eos="<|end_of_text|>")
GPT_OSS = Family(
    "<|startoftext|> <|endoftext|> <|return|> <|constrain|> <|channel|> <|start|> <|end|> <|message|> <|call|>",
    eos="<|return|>",
)
GLM = Family(
    "<|endoftext|> [gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>", eos="<|endoftext|>", eot="<|user|>"
)
KIMI = Family("[BOS] [EOS] <|im_system|> <|im_user|> <|im_assistant|> <|im_middle|> <|im_end|>", eos="<|im_end|>")


def real_template(name: str) -> str:
    """The text of a template of a published model."""
    return (REAL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def encode(encoder: ChatEncoder, messages: Sequence[Mapping[str, object]], tools: object = None) -> EncodedChat:
    """The one conversation, which must not be refused."""
    (chat,) = encoder.encode_batch([conversation_from_value(messages, "test", tools=tools)])
    assert isinstance(chat, EncodedChat), chat
    return chat


def learned(encoder: ChatEncoder, messages: Sequence[Mapping[str, object]], tools: object = None) -> list[str]:
    """The supervised stretches of a conversation, as text, special tokens included."""
    chat = encode(encoder, messages, tools)
    return supervised_texts(encoder.tokenizer, chat)


def supervised_texts(tokenizer: Tokenizer, chat: EncodedChat) -> list[str]:
    assert len(chat.tokens) == len(chat.supervised)
    stretches: list[bytes] = []
    before = 0
    for token_id, flag in zip(chat.tokens, chat.supervised, strict=True):
        if flag and not before:
            stretches.append(b"")
        if flag:
            stretches[-1] += tokenizer.token_bytes(token_id, skip_special=False)
        before = flag
    return [stretch.decode() for stretch in stretches]
