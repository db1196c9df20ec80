"""Turns rows into tokens with a mask, one class for each shape of data.

    text                 [bos] text eos                              every token after the first is trained
    prompt, completion   [bos] prompt separator | completion eos     trained from the bar on
    chat                 what the chat template makes of the turns   the assistant's turns are trained, with their ends
    text, label          [bos] text eos label                        the label alone is trained, by a head

Prompt (with its separator) and completion are tokenized apart, so that the mask begins exactly at the completion and no
token lies across the border. Text is data: what looks like a special token in it stays text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from entrenar_core.data.labels import Labels
from entrenar_core.errors import DataError

if TYPE_CHECKING:
    from entrenar_core.tokenizer.chat import ChatEncoder, ChatRefusal, EncodedChat
    from entrenar_core.tokenizer.conversation import Conversation
    from entrenar_core.tokenizer.tokenizer import Tokenizer

Overlong = Literal["truncate", "split", "drop"]

Rows = Mapping[str, Sequence[Any]]
"""Values by role (``prompt``, ``messages`` ...), the same number for each."""

Locate = Callable[[int], str]
"""The place of a row of the batch, counted from 0, for messages."""

REFUSED_NULL = "null"
REFUSED_EMPTY = "empty"
"""Reasons for which a row is left out: a value is missing; it is blank."""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens, and for each whether it is a target (0 or 1).

    `n_last` entries at the end stay when the row is cut, for a label: the very last one is no token then but the class
    that a head shall find (0 for a number, which is in `value`).
    """

    tokens: Sequence[int]
    supervised: bytes
    n_last: int = 0
    value: float | None = None


class RowEncoder(Protocol):
    """Encodes a batch of rows; a row that cannot be used gives the reason instead."""

    @property
    def default_overlong(self) -> Overlong:
        """What happens to rows that are too long, unless the config says so."""
        ...

    @property
    def notices(self) -> Sequence[str]:
        """What is worth knowing about the rows encoded so far, each thing once."""
        ...

    def encode(self, rows: Rows, locate: Locate) -> list[EncodedRow | str]: ...


@dataclass(frozen=True)
class Frame:
    """The tokens around a text: BOS where it is added, EOS where it is."""

    bos: tuple[int, ...]
    eos: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, add_bos: bool | None, add_eos: bool, where: str) -> Frame:
        """`add_bos` None asks the tokenizer. Raises DataError when the tokenizer lacks a token that is asked for."""
        bos = tokenizer.add_bos if add_bos is None else add_bos
        return cls(
            _special(tokenizer.bos_id, bos, "bos", where),
            _special(tokenizer.eos_id, add_eos, "eos", where),
        )


def _special(token_id: int | None, wanted: bool, kind: str, where: str) -> tuple[int, ...]:
    if not wanted:
        return ()
    if token_id is None:
        raise DataError(
            f"data.add_{kind} is on, but the tokenizer of the model has no {kind.upper()} token",
            where=where,
            hint=f"set data.add_{kind}: false" + (", and the model will not learn to stop" if kind == "eos" else ""),
        )
    return (token_id,)


def usable(rows: Rows, required: Sequence[str]) -> list[str | None]:
    """For each row the reason to refuse it, or None: no required role may be missing."""
    return [_reason(values) for values in zip(*(rows[role] for role in required), strict=True)]


def _reason(values: Sequence[Any]) -> str | None:
    missing = [value for value in values if is_missing(value)]
    if not missing:
        return None
    return REFUSED_EMPTY if all(isinstance(value, str) for value in missing) else REFUSED_NULL


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: null, NaN, a blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


class TextEncoder:
    """Plain text."""

    default_overlong: Overlong = "split"
    notices: Sequence[str] = ()

    def __init__(self, tokenizer: Tokenizer, frame: Frame) -> None:
        self._tokenizer = tokenizer
        self._frame = frame

    def encode(self, rows: Rows, locate: Locate) -> list[EncodedRow | str]:
        del locate
        reasons = usable(rows, ["text"])
        kept = [text for text, reason in zip(rows["text"], reasons, strict=True) if reason is None]
        ids = iter(self._tokenizer.encode_batch(kept, add_special=False, parse_special=False))
        return [self._row(next(ids)) if reason is None else reason for reason in reasons]

    def _row(self, ids: list[int]) -> EncodedRow:
        tokens = [*self._frame.bos, *ids, *self._frame.eos]
        return EncodedRow(tokens, b"\1" * len(tokens))


class PromptEncoder:
    """A prompt that is read and a completion that is trained, without a chat template.

    Args:
        join: makes the text in front of the completion from a row: the prompt with its separator.
        required: roles that must not be empty; the last one is the completion.
    """

    default_overlong: Overlong = "truncate"
    notices: Sequence[str] = ()

    def __init__(
        self,
        tokenizer: Tokenizer,
        frame: Frame,
        *,
        join: Callable[[Mapping[str, Any]], str],
        required: Sequence[str],
        train_on_prompt: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._join = join
        self._required = required
        self._train_on_prompt = train_on_prompt

    def encode(self, rows: Rows, locate: Locate) -> list[EncodedRow | str]:
        del locate
        reasons = usable(rows, self._required)
        kept = [row for row, reason in zip(each_row(rows), reasons, strict=True) if reason is None]
        contexts = iter(self._tokenizer.encode_batch([self._join(row) for row in kept]))
        targets = iter(self._tokenizer.encode_batch([row[self._required[-1]] for row in kept], continues=True))
        return [self._row(next(contexts), next(targets)) if reason is None else reason for reason in reasons]

    def _row(self, context: list[int], target: list[int]) -> EncodedRow:
        tokens = [*self._frame.bos, *context, *target, *self._frame.eos]
        masked = 0 if self._train_on_prompt else len(tokens) - len(target) - len(self._frame.eos)
        return EncodedRow(tokens, bytes(masked) + b"\1" * (len(tokens) - masked))


class ChatRowEncoder:
    """Conversations through a chat template; what is no conversation is refused, and the first such row is named.

    Args:
        chat: renders, tokenizes and masks.
        converse: makes a conversation of a row, or gives the reason why it cannot.
    """

    default_overlong: Overlong = "truncate"

    def __init__(self, chat: ChatEncoder, converse: Callable[[Mapping[str, Any], str], Conversation | str]) -> None:
        self._chat = chat
        self._converse = converse
        self._first_faults: dict[str, str] = {}

    @property
    def notices(self) -> Sequence[str]:
        return [*self._chat.notices, *self._first_faults.values()]

    def encode(self, rows: Rows, locate: Locate) -> list[EncodedRow | str]:
        found = [self._conversation(row, partial(locate, index)) for index, row in enumerate(each_row(rows))]
        encoded = iter(self._chat.encode_batch([one for one in found if not isinstance(one, str)]))
        return [
            one if isinstance(one, str) else self._row(next(encoded), partial(locate, index))
            for index, one in enumerate(found)
        ]

    def _conversation(self, row: Mapping[str, Any], where: Callable[[], str]) -> Conversation | str:
        from entrenar_core.tokenizer.conversation import ConversationError

        try:
            return self._converse(row, "")
        except ConversationError as error:
            said = f"{where()}: {error.where or ''}{': ' if error.where else ''}{error.message}"
            return self._fault(error.reason, f"{said}; {error.hint}" if error.hint else said)

    def _row(self, encoded: EncodedChat | ChatRefusal, where: Callable[[], str]) -> EncodedRow | str:
        from entrenar_core.tokenizer.chat import ChatRefusal

        if isinstance(encoded, ChatRefusal):
            return self._fault(encoded.reason, f"{where()}: {encoded.detail or encoded.reason}")
        return EncodedRow(encoded.tokens, encoded.supervised)

    def _fault(self, reason: str, detail: str) -> str:
        self._first_faults.setdefault(reason, detail)
        return reason


class LabelledEncoder:
    """A text and what a head shall say of it: one of some classes, or a number."""

    default_overlong: Overlong = "truncate"
    notices: Sequence[str] = ()

    def __init__(self, tokenizer: Tokenizer, frame: Frame, labels: Labels, role: str) -> None:
        self._tokenizer = tokenizer
        self._frame = frame
        self._labels = labels
        self._role = role

    def encode(self, rows: Rows, locate: Locate) -> list[EncodedRow | str]:
        reasons = usable(rows, ["text", self._role])
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        ids = self._tokenizer.encode_batch([rows["text"][index] for index in kept])
        found: list[EncodedRow | str] = [reason or REFUSED_NULL for reason in reasons]
        for index, tokens in zip(kept, ids, strict=True):
            class_id, value = self._labels.target_of(rows[self._role][index], partial(locate, index))
            found[index] = labelled_row(self._frame, tokens, class_id, value)
        return found


def labelled_row(frame: Frame, ids: Sequence[int], class_id: int = 0, value: float | None = None) -> EncodedRow | str:
    """The ids of a text and its label; the reason to refuse it where there is no token for the head to read."""
    tokens = [*frame.bos, *ids, *frame.eos]
    if not tokens:
        return REFUSED_EMPTY
    return EncodedRow([*tokens, class_id], bytes(len(tokens)) + b"\1", n_last=len(frame.eos) + 1, value=value)


def each_row(rows: Rows) -> list[dict[str, Any]]:
    """The rows as mappings from role to value."""
    roles = list(rows)
    return [dict(zip(roles, values, strict=True)) for values in zip(*rows.values(), strict=True)]
