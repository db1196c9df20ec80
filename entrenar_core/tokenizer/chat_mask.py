"""Which characters of a rendered chat, and so which tokens, are trained on.

A turn of the assistant begins where the generation prompt ends, because from there on the model writes by itself, and
ends with the stop token that follows its text. In between lies all that came from the message: reasoning, content,
tool calls, and what the template writes around them.

    <|im_start|>assistant\\n<think>\\n\\n</think>\\n\\nHello<|im_end|>\\n
                          [=====================================)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.chat_marks import Span
from entrenar_core.tokenizer.tokenizer import Piece

_NOWHERE = -3
_WORD_ENDS = re.compile(r"[\s>\]]")


class Ending(Enum):
    """What ends a turn: a stop token, text of the template that is none, or nothing at all."""

    STOP = auto()
    TEXT = auto()
    NOTHING = auto()


@dataclass(frozen=True)
class TurnShape:
    """What a template writes around a turn of the assistant.

    Attributes:
        prompt: the generation prompt, which comes before the turn; may be empty.
        ending: what follows the last turn; may be empty.
        borders: lengths of the prompt after which a special token or a word of it ends, in order. A turn that follows
            less of the prompt than the first of them follows none of it.
    """

    prompt: str = ""
    ending: str = ""
    borders: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A rendered chat: its text, the spans that are data, the pieces it was encoded in."""

    text: str
    spans: Sequence[Span]
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Turn:
    """A stretch of the text that the assistant wrote: characters, the message, how it ends and with which text."""

    begin: int
    end: int
    message: int
    ending: Ending
    closing: str


def turn_shape(with_prompt: str, without: str, ending: str, pieces: Sequence[Piece]) -> TurnShape:
    """What surrounds a turn, from what a template writes at the end.

    Args:
        with_prompt: when an answer is asked for.
        without: when none is; what both begin with belongs to the turn before.
        ending: after an answer.
        pieces: of `with_prompt`.
    """
    special = [(piece.begin, piece.end) for piece in pieces if piece.prepared is None]
    borders = _borders(with_prompt, special)
    begin = common_length(with_prompt, without)
    if begin < len(without):  # the last turn ends otherwise: go back to where the common part ends
        begin = max((border for border in borders if border <= begin), default=0)
    prompt = with_prompt[begin:]
    first = next((end for start, end in special if start >= begin), begin + (len(prompt) + 1) // 2)
    return TurnShape(prompt, ending, tuple(border - begin for border in borders if border >= first))


def _borders(text: str, special: Sequence[tuple[int, int]]) -> list[int]:
    """Where special tokens end, and words outside of them."""
    ends = {end for _, end in special} | {hit.end() for hit in _WORD_ENDS.finditer(text)}
    return sorted(end for end in ends if not any(begin < end < stop for begin, stop in special))


def assistant_turns(
    chat: Chat, shape: TurnShape, assistants: Collection[int], stop_ids: Collection[int]
) -> Iterator[Turn]:
    """The turns of the messages in `assistants`, in order of the text.

    A message may have several, when the template writes each tool call as a turn of its own. Where text of a message is
    repeated elsewhere (the name of a function beside its result), that is no turn.
    """
    stops = [(piece.begin, piece.end) for piece in chat.pieces if piece.prepared is None and piece.ids[0] in stop_ids]
    stretches = [(0, 0, _NOWHERE), *_stretches(chat.spans, stops), (len(chat.text), len(chat.text), _NOWHERE)]
    seen: set[int] = set()
    for before, (begin, end, message), after in zip(stretches, stretches[1:], stretches[2:], strict=False):
        if message not in assistants:
            continue
        start = _prompt_end(chat.text, shape, before[1], begin, end)
        if start is None and message in seen:
            continue
        seen.add(message)
        stop, ending = _turn_end(chat, shape, stops, end, after[0])
        yield Turn(begin if start is None else start, stop, message, ending, chat.text[end:stop])


def supervised_tokens(
    pieces: Sequence[Piece], regions: Sequence[tuple[int, int]], covered_bytes: Callable[[int], int]
) -> bytes:
    """1 for each token that has a character in one of the regions, else 0.

    Args:
        pieces: of one chat, in order.
        regions: stretches of characters, in order and without overlap.
        covered_bytes: how many bytes of a piece's prepared text a token stands for.
    """
    flags: list[bytes] = []
    for piece in pieces:
        inside = [(b, e) for b, e in regions if b < piece.end and e > piece.begin]
        if not inside or (inside[0][0] <= piece.begin and inside[0][1] >= piece.end):
            flags.append((b"\1" if inside else b"\0") * len(piece.ids))
        elif piece.prepared is None:
            flags.append(b"\1")
        else:
            flags.append(_cut_piece(piece, piece.prepared, inside, covered_bytes))
    return b"".join(flags)


def _cut_piece(
    piece: Piece, prepared: str, regions: Sequence[tuple[int, int]], covered_bytes: Callable[[int], int]
) -> bytes:
    """The flags of a piece that lies partly in regions."""
    in_front = len(prepared) - (piece.end - piece.begin)

    def place(character: int) -> int:
        """Bytes of the prepared text before a character of the chat; what stands in front belongs to the first one."""
        return 0 if character <= piece.begin else len(prepared[: character - piece.begin + in_front].encode())

    borders = [(place(begin), place(min(end, piece.end))) for begin, end in regions]
    flags = bytearray()
    begin = 0
    for token_id in piece.ids:
        end = begin + covered_bytes(token_id)
        flags.append(any(begin < region_end and end > region_begin for region_begin, region_end in borders))
        begin = end
    if begin != place(piece.end):
        raise TokenizerError(f"the tokens of {prepared[:40]!r} spell {begin} bytes, not {place(piece.end)}")
    return bytes(flags)


def _stretches(spans: Sequence[Span], stops: Sequence[tuple[int, int]]) -> list[Span]:
    """Spans, where neighbours of one origin are one unless a stop token lies between them."""
    joined: list[Span] = []
    for begin, end, origin in spans:
        if joined and joined[-1][2] == origin and _first_stop(stops, joined[-1][1], begin) is None:
            joined[-1] = (joined[-1][0], end, origin)
        else:
            joined.append((begin, end, origin))
    return joined


def _first_stop(stops: Sequence[tuple[int, int]], begin: int, end: int) -> int | None:
    """Where the first stop token between two places ends."""
    return next((stop for start, stop in stops if start >= begin and stop <= end), None)


def _prompt_end(text: str, shape: TurnShape, before: int, begin: int, end: int) -> int | None:
    """Where the generation prompt ends, or as much of it as the template wrote in front of the text at `begin`.

    The whole prompt may reach into the text, which then repeats what the model is given. None: there is no prompt.
    """
    prompt = shape.prompt
    if not prompt:
        return None
    whole = text.rfind(prompt, before, min(begin + len(prompt) - 1, end))
    if whole >= 0:
        return whole + len(prompt)
    best, place = 0, None
    start = text.find(prompt[0], before, begin)
    while start >= 0:
        length = common_length(prompt, text[start:begin])
        follows = max((border for border in shape.borders if border <= length), default=0)
        if follows and length >= best:
            best, place = length, begin if start + length == begin else start + follows
        start = text.find(prompt[0], start + 1, begin)
    return place


def _turn_end(
    chat: Chat, shape: TurnShape, stops: Sequence[tuple[int, int]], end: int, after: int
) -> tuple[int, Ending]:
    stop = _first_stop(stops, end, after)
    if stop is not None:
        return stop, Ending.STOP
    gap = chat.text[end:after]
    if after == len(chat.text):
        length = len(gap.rstrip())
        if not length:
            return after, Ending.NOTHING
    else:
        ends_like_the_last = shape.ending and gap.startswith(shape.ending)
        length = len(shape.ending) if ends_like_the_last else _leading_special(chat, shape, end, after)
    return end + length, Ending.TEXT if gap[:length].strip() else Ending.NOTHING


def _leading_special(chat: Chat, shape: TurnShape, begin: int, end: int) -> int:
    """Length up to the end of a special token that comes first in the gap and does not begin the next turn."""
    for piece in chat.pieces:
        if begin <= piece.begin < end and piece.prepared is None:
            is_first = not chat.text[begin : piece.begin].strip()
            opens = shape.prompt.startswith(chat.text[piece.begin : piece.end])
            return piece.end - begin if is_first and not opens else 0
    return 0


def common_length(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
