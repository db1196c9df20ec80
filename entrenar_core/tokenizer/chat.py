"""Conversations become token examples: what llama.cpp would send, and which tokens are trained on.

    template -> text that knows its origins -> pieces between special tokens -> ids; turns of the assistant -> mask

Special tokens are recognised in the template's text only: what looks like one in a message, a tool or its arguments
stays text. Whatever keeps a conversation from being trained on becomes a `ChatRefusal` with a reason to count by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.chat_forms import find_forms, marked_messages, marked_tools
from entrenar_core.tokenizer.chat_marks import SEVERAL_MESSAGES, Span, plain, spans_of
from entrenar_core.tokenizer.chat_mask import (
    Chat,
    Ending,
    Turn,
    TurnShape,
    assistant_turns,
    supervised_tokens,
    turn_shape,
)
from entrenar_core.tokenizer.chat_notices import (
    LEFT_OUT,
    NO_SYSTEM,
    ends_with_nothing,
    ends_with_text,
    unknown_roles,
    without_calls,
)
from entrenar_core.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from entrenar_core.tokenizer.conversation import (
    ASSISTANT,
    NO_CONTENT,
    NO_MESSAGES,
    NO_ROLE,
    TOO_DEEP,
    Conversation,
    ConversationError,
    conversation_from_value,
)
from entrenar_core.tokenizer.tokenizer import Piece, Tokenizer

NOTHING_TO_LEARN = "nothing to learn"
NOT_UNICODE = "text that is not valid Unicode"
MIXED = "the chat template mixes texts of several messages"
TEMPLATE_REFUSES = "the chat template refuses it"
TEMPLATE_FAILS = "the chat template fails"
"""Reasons of a `ChatRefusal`; the last two are followed by a colon and what the template says."""

MOST_ROLES = 8
"""Roles that are not known of which each is told; names of characters may be many."""

_LONGEST_REASON = 160

__all__ = ["ChatEncoder", "ChatRefusal", "Conversation", "ConversationError", "EncodedChat", "conversation_from_value"]


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as tokens.

    Attributes:
        tokens: T ids, BOS included where there is one.
        supervised: T flags, 1 where the token is trained on.
        text: what was rendered, without a BOS that the tokenizer adds by itself.
    """

    tokens: list[int]
    supervised: bytes
    text: str


@dataclass(frozen=True)
class ChatRefusal:
    """Why a conversation is left out: `reason` is short and the same for all with the same fault, `detail` is not."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class _Rendered:
    conversation: Conversation
    text: str
    spans: tuple[Span, ...]

    @property
    def data(self) -> bytes:
        """1 for each character that is data."""
        flags = bytearray(len(self.text))
        for begin, end, _ in self.spans:
            flags[begin:end] = b"\1" * (end - begin)
        return bytes(flags)


class ChatEncoder:
    """Encodes conversations with one template for one tokenizer.

    Attributes:
        tokenizer: of the model.
        notices: what a user should know about template and vocabulary, each once; grows while encoding.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        add_bos: bool | None = None,
        add_eos: bool = True,
        train_turns: Literal["all", "last"] = "all",
        train_prompt: bool = False,
    ) -> None:
        """
        Args:
            tokenizer: gives the ids.
            template: renders the conversations.
            add_bos: None asks the tokenizer. Whatever is added, a BOS of the template is not doubled.
            add_eos: put EOS after a last turn that nothing else ends.
            train_turns: all turns of the assistant, or the last one only.
            train_prompt: train on everything but turns that are switched off.

        Raises:
            TokenizerError: a BOS is asked for that the tokenizer does not have.
        """
        self.tokenizer = tokenizer
        self._template = template
        self._bos = _bos_ids(tokenizer, tokenizer.add_bos if add_bos is None else add_bos)
        self._add_eos = add_eos
        self._last_only = train_turns == "last"
        self._train_prompt = train_prompt
        self._forms = find_forms(template)
        self._shape = self._turn_shape()
        self._notices: dict[str, str] = {}

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(self._notices.values())

    def encode_batch(self, conversations: Sequence[Conversation]) -> list[EncodedChat | ChatRefusal]:
        """Tokens and mask of every conversation, or why there are none, in order."""
        rendered = [self._render(conversation) for conversation in conversations]
        usable = [chat for chat in rendered if isinstance(chat, _Rendered)]
        pieces = iter(self.tokenizer.encode_chats([(chat.text, chat.data) for chat in usable]))
        return [self._encode(chat, next(pieces)) if isinstance(chat, _Rendered) else chat for chat in rendered]

    def _render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> _Rendered | ChatRefusal:
        fault = _fault_of(conversation)
        if fault is not None:
            return ChatRefusal(fault)
        self._notice_roles(conversation)
        try:
            return self._rendered(conversation, add_generation_prompt=add_generation_prompt)
        except RecursionError:
            return ChatRefusal(TOO_DEEP)

    def _rendered(self, conversation: Conversation, *, add_generation_prompt: bool) -> _Rendered | ChatRefusal:
        tools = marked_tools(conversation, self._forms)
        refusal: TemplateRefusal | None = None
        for messages in marked_messages(conversation, self._forms):
            try:
                text = self._template.render_marked(messages, tools=tools, add_generation_prompt=add_generation_prompt)
            except TemplateRefusal as error:
                refusal = refusal or error
                continue
            if self._template.asked_for_date:
                today = self._template.today
                self._say("date", f"the chat template asks for the date; in training it is always {today}")
            return self._checked(conversation, text)
        assert refusal is not None
        reason = TEMPLATE_REFUSES if refusal.by_author else TEMPLATE_FAILS
        return ChatRefusal(f"{reason}: {refusal.message}"[:_LONGEST_REASON], str(refusal))

    def _checked(self, conversation: Conversation, text: str) -> _Rendered | ChatRefusal:
        """The rendered text without the BOS that is added anyway, as llama.cpp does it."""
        bos = "".join(map(self.tokenizer.token_text, self._bos))
        first = next((begin for begin, _, _ in spans_of(text)), len(text))
        if bos and text.startswith(bos) and first >= len(bos):
            text = text[len(bos) :]
        spans = spans_of(text)
        if any(origin == SEVERAL_MESSAGES for _, _, origin in spans):
            return ChatRefusal(MIXED)
        try:
            plain(text).encode()
        except UnicodeEncodeError as error:
            return ChatRefusal(NOT_UNICODE, str(error))
        return _Rendered(conversation, plain(text), spans)

    def _encode(self, rendered: _Rendered, pieces: Sequence[Piece]) -> EncodedChat | ChatRefusal:
        conversation = rendered.conversation
        chat = Chat(rendered.text, rendered.spans, pieces, partial(self._prompt_for, conversation))
        assistants, trained = self._assistants(conversation)
        turns = list(assistant_turns(chat, self._shape, assistants, self.tokenizer.stop_ids))
        self._notice_what_is_missing(rendered, trained - {turn.message for turn in turns})
        self._notice_endings(turns)
        tokens = self._bos + [token_id for piece in chat.pieces for token_id in piece.ids]
        flags = self._flags(chat, turns, trained)
        if self._add_eos and self.tokenizer.eos_id is not None and _is_open(chat, turns):
            tokens.append(self.tokenizer.eos_id)
            flags += b"\1" if turns[-1].message in trained else b"\0"
        if flags.find(1, 1) < 0:
            return ChatRefusal(NOTHING_TO_LEARN, "no turn of an assistant is trained")
        return EncodedChat(tokens, flags, rendered.text)

    def _flags(self, chat: Chat, turns: Sequence[Turn], trained: Collection[int]) -> bytes:
        """The mask of all tokens, BOS included."""
        chosen = [(turn.begin, turn.end) for turn in turns if (turn.message in trained) is not self._train_prompt]
        flags = bytes(len(self._bos)) + supervised_tokens(chat.pieces, chosen, self.tokenizer.covered_bytes)
        return bytes(1 - flag for flag in flags) if self._train_prompt else flags

    def _prompt_for(self, conversation: Conversation, index: int) -> str:
        """What the model is given to write message `index`; empty where the template does not tell."""
        before = replace(conversation, messages=conversation.messages[:index])
        rendered = self._render(before, add_generation_prompt=True)
        return rendered.text if isinstance(rendered, _Rendered) else ""

    def _assistants(self, conversation: Conversation) -> tuple[set[int], set[int]]:
        """The messages of the assistant, and those of them that are trained on."""
        messages = conversation.messages
        assistants = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
        chosen = assistants[-1:] if self._last_only else assistants
        return set(assistants), {index for index in chosen if _is_on(messages[index])}

    def _turn_shape(self) -> TurnShape:
        prompt = self._forms.prompt
        (pieces,) = self.tokenizer.encode_chats([(prompt, bytes(len(prompt)))])
        return turn_shape(prompt, self._forms.plain_tail, self._forms.ending, pieces)

    def _notice_roles(self, conversation: Conversation) -> None:
        for role, notice in unknown_roles(conversation, self._template):
            if sum(kind.startswith("role ") for kind in self._notices) < MOST_ROLES:
                self._say(f"role {role}", notice)

    def _notice_what_is_missing(self, rendered: _Rendered, without_turn: set[int]) -> None:
        messages = rendered.conversation.messages
        if not self._forms.system and any(message["role"] == "system" for message in messages):
            self._say("system", NO_SYSTEM)
        unwritten = {index for index in range(len(messages)) if not _calls_are_written(rendered, index)}
        if unwritten:
            self._say("calls", without_calls(self._template))
        if without_turn - unwritten:
            self._say("left out", LEFT_OUT)

    def _notice_endings(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            if turn.ending is Ending.TEXT and "text" not in self._notices:
                self._say("text", ends_with_text(turn.closing.strip(), self.tokenizer))
            elif turn.ending is Ending.NOTHING:
                self._say("nothing", ends_with_nothing(add_eos=self._add_eos))

    def _say(self, kind: str, notice: str) -> None:
        self._notices.setdefault(kind, notice)


def _bos_ids(tokenizer: Tokenizer, add_bos: bool) -> list[int]:
    if not add_bos:
        return []
    if tokenizer.bos_id is None:
        raise TokenizerError(
            "data.add_bos is on, but the tokenizer of the model has no BOS token", hint="set data.add_bos: false"
        )
    return [tokenizer.bos_id]


def _fault_of(conversation: Conversation) -> str | None:
    """What makes a conversation unfit for any template."""
    if not conversation.messages:
        return NO_MESSAGES
    for message in conversation.messages:
        if not isinstance(message.get("role"), str):
            return NO_ROLE
        if message.get("content") is None and not message.get("tool_calls"):
            return NO_CONTENT
    return None


def _calls_are_written(rendered: _Rendered, index: int) -> bool:
    """Whether the names of the functions that a message calls, if any, are in what was made of it."""
    calls = rendered.conversation.messages[index].get("tool_calls") or ()
    names = [call.get("function", call).get("name", "") for call in calls]
    texts = [rendered.text[begin:end] for begin, end, origin in rendered.spans if origin == index] if names else []
    return all(any(name in text for text in texts) for name in names)


def _is_on(message: Mapping[str, object]) -> bool:
    """Whether the message itself leaves its training on."""
    return message.get("train", message.get("weight", 1)) not in (False, 0)


def _is_open(chat: Chat, turns: Sequence[Turn]) -> bool:
    """Whether the text ends with a turn of the assistant that nothing ends."""
    return bool(turns) and turns[-1].ending is Ending.NOTHING and turns[-1].end == len(chat.text)
