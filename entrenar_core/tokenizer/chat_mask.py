"""Which characters of a rendered chat, and so which tokens, are trained on.

A turn of the assistant begins where the generation prompt ends, because from there on the model writes by itself, and
ends with the stop token that follows its text. In between lies all that came from the message: reasoning, content,
tool calls, and what the template writes around them.

    <|im_start|>assistant\\n<think>\\n\\n</think>\\n\\nHello<|im_end|>\\n
                          [=====================================)
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate

from entrenar_core.errors import TokenizerError
from entrenar_core.tokenizer.chat_marks import Span
from entrenar_core.tokenizer.tokenizer import Piece

CoveredBytes = Callable[[Sequence[int]], Sequence[int]]

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
        question_end: what follows a question when an answer is asked for: the end of that turn, the generation prompt.
        prompt: the generation prompt alone; may be empty.
        ending: what follows the last turn; may be empty.
        borders: lengths of the prompt after which a special token or a word of it ends, in order. A turn that follows
            less of the prompt than the first of them follows none of it.
    """

    question_end: str = ""
    prompt: str = ""
    ending: str = ""
    borders: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chat:
    """A rendered chat.

    Attributes:
        text: all of it.
        spans: the data in it.
        pieces: in which it was encoded.
        prompt_for: renders the prompt for a message, with all messages before it; empty where that cannot be.
    """

    text: str
    spans: Sequence[Span]
    pieces: Sequence[Piece]
    prompt_for: Callable[[int], str]

    @property
    def special(self) -> list[tuple[int, int]]:
        """Where special tokens are."""
        return [(piece.begin, piece.end) for piece in self.pieces if piece.prepared is None]


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
    return TurnShape(with_prompt, prompt, ending, tuple(border - begin for border in borders if border >= first))


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
    for (_, before, _), (begin, end, message), (after, _, _) in zip(
        stretches, stretches[1:], stretches[2:], strict=False
    ):
        if message not in assistants or (message in seen and _whole_prompt(chat, shape, before, begin, end) is None):
            continue
        seen.add(message)
        start = _turn_begin(chat, shape, before, (begin, end, message))
        stop, ending = _turn_end(chat, shape, stops, end, after)
        yield Turn(start, stop, message, ending, chat.text[end:stop])


def supervised_tokens(
    pieces: Sequence[Piece], regions: Sequence[tuple[int, int]], covered_bytes: CoveredBytes
) -> bytes:
    """1 for each token that has a character in one of the regions, else 0.

    Args:
        pieces: of one chat, in order.
        regions: stretches of characters, in order and without overlap.
        covered_bytes: how many bytes of a piece's prepared text each of its tokens stands for.
    """
    flags: list[bytes] = []
    for piece in pieces:
        inside = [(b, e) for b, e in regions if b < min(e, piece.end) and e > piece.begin]
        if not inside or (inside[0][0] <= piece.begin and inside[0][1] >= piece.end):
            flags.append((b"\1" if inside else b"\0") * len(piece.ids))
        elif piece.prepared is None:
            flags.append(b"\1")
        else:
            flags.append(_cut_piece(piece, piece.prepared, inside, covered_bytes))
    return b"".join(flags)


def _cut_piece(piece: Piece, prepared: str, regions: Sequence[tuple[int, int]], covered_bytes: CoveredBytes) -> bytes:
    """The flags of a piece that lies partly in regions."""
    in_front = len(prepared) - (piece.end - piece.begin)

    def place(character: int) -> int:
        """Bytes of the prepared text before a character of the chat; what stands in front belongs to the first one."""
        return 0 if character <= piece.begin else len(prepared[: character - piece.begin + in_front].encode())

    ends = list(accumulate(covered_bytes(piece.ids)))
    if ends[-1] != place(piece.end):
        raise TokenizerError(f"the tokens of {prepared[:40]!r} spell {ends[-1]} bytes, not {place(piece.end)}")
    begins = [0, *ends[:-1]]
    flags = bytearray(len(ends))
    for begin, end in regions:
        first, last = bisect_right(ends, place(begin)), bisect_left(begins, place(min(end, piece.end)))
        flags[first:last] = b"\1" * (last - first)
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


def _turn_begin(chat: Chat, shape: TurnShape, before: int, stretch: Span) -> int:
    """Where the generation prompt ends that the template wrote between `before` and the text of a message."""
    begin, end, message = stretch
    if shape.prompt:
        place = _whole_prompt(chat, shape, before, begin, end) or _part_of_prompt(chat, shape, before, begin)
        if place is not None:
            return place
    elif shape.question_end and chat.text.startswith(shape.question_end, before, begin):
        return before + len(shape.question_end)
    return _end_of_common_part(chat, chat.prompt_for(message), before, begin)


def _whole_prompt(chat: Chat, shape: TurnShape, before: int, begin: int, end: int) -> int | None:
    """Where the whole prompt ends. It may reach into the text, which then repeats what the model is given."""
    if not shape.prompt:
        return None
    place = chat.text.rfind(shape.prompt, before, min(begin + len(shape.prompt) - 1, end))
    return place + len(shape.prompt) if place >= 0 else None


def _part_of_prompt(chat: Chat, shape: TurnShape, before: int, begin: int) -> int | None:
    """Where as much of the prompt ends as the template wrote; None if that is too little to tell."""
    best, place = 0, None
    start = chat.text.find(shape.prompt[0], before, begin)
    while start >= 0:
        length = common_length(shape.prompt, chat.text[start:begin])
        follows = max((border for border in shape.borders if border <= length), default=0)
        if follows and length >= best:
            best, place = length, begin if start + length == begin else start + follows
        start = chat.text.find(shape.prompt[0], start + 1, begin)
    return place


def _end_of_common_part(chat: Chat, prompt: str, before: int, begin: int) -> int:
    """Where the text leaves the path of a rendered prompt; `begin` if that is not between the two messages."""
    length = common_length(prompt, chat.text)
    if not prompt or length >= begin or length < before:
        return begin
    if length < len(prompt):
        length = max((border for border in _borders(chat.text, chat.special) if border <= length), default=0)
    return length if length >= before else begin


def _turn_end(
    chat: Chat, shape: TurnShape, stops: Sequence[tuple[int, int]], end: int, after: int
) -> tuple[int, Ending]:
    """Where the turn ends whose text ends at `end`, if the next text of a message begins at `after`."""
    stop = _first_stop(stops, end, after)
    if stop is not None:
        return stop, Ending.STOP
    gap = chat.text[end:after]
    if after == len(chat.text):
        length = len(gap.rstrip()) or len(gap)
    elif shape.ending and gap.startswith(shape.ending):
        length = len(shape.ending)
    else:
        length = _length_to_special(chat, shape, end, after) or _length_with(gap, shape.ending)
    return end + length, Ending.TEXT if gap[:length].strip() else Ending.NOTHING


def _length_to_special(chat: Chat, shape: TurnShape, begin: int, end: int) -> int:
    """Length of the text up to the first special token, and of that token unless it opens the next turn."""
    first = next((place for place in chat.special if begin <= place[0] < end), None)
    if first is None:
        return 0
    opens = shape.prompt.startswith(chat.text[first[0] : first[1]])
    return len(chat.text[begin : first[0] if opens else first[1]].rstrip())


def _length_with(gap: str, ending: str) -> int:
    """Length of a gap up to and with what ends turns: marks around a call of a tool may stand in front of it."""
    place = gap.find(ending) if ending.strip() else -1
    return place + len(ending) if place >= 0 else 0


def common_length(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
