"""A few examples as they are trained: context dimmed, what is learned in colour, special tokens and line ends shown.

Without colours, what is learned stands between ⟦ and ⟧. Long examples lose their middle, never their ends: that is
where a template or a stop token goes wrong.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from entrenar_cli.quantities import exact_count
from entrenar_cli.visible import visible
from entrenar_core.stages.plan_types import SamplePreview
from entrenar_core.stages.preview import Segment

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

OPEN, CLOSE, LINE_END = "⟦", "⟧", "↵"
MOST_CHARACTERS = 1200
CONTEXT, TRAINED, SPECIAL, LEFT_OUT = "dim", "bold green", "magenta", "yellow"


def print_previews(samples: Sequence[SamplePreview], out: TextIO, most: int = MOST_CHARACTERS) -> None:
    """Write the examples with a legend, each cut to about `most` characters."""
    if not samples:
        return
    if out.isatty() and not os.environ.get("NO_COLOR"):
        from rich.console import Console

        _print_rich(Console(file=out, highlight=False, markup=False, emoji=False), samples, most)
        return
    out.write(f"\nexamples: {OPEN}learned{CLOSE}, the rest is context; {LINE_END} is a line end\n")
    for number, sample in enumerate(samples, start=1):
        out.write(f"\n{_heading(number, sample)}\n{_plain(cut_middle(sample.segments, most))}\n")


def cut_middle(segments: Sequence[Segment], most: int) -> list[Segment | int]:
    """`segments` with about `most` characters; a number stands for that many characters that are left out."""
    length = sum(len(segment.text) for segment in segments)
    if length <= most:
        return list(segments)
    head = _first(segments, most // 2)
    tail = [_reversed(segment) for segment in _first([_reversed(one) for one in reversed(segments)], most // 2)]
    shown = sum(len(segment.text) for segment in (*head, *tail))
    return [*head, length - shown, *reversed(tail)]


def _first(segments: Sequence[Segment], room: int) -> list[Segment]:
    """Whole segments from the start, the last one cut to the room; a special token is not cut."""
    taken = []
    for segment in segments:
        if room <= 0:
            break
        text = segment.text if segment.is_special else segment.text[:room]
        taken.append(Segment(text, segment.is_trained, segment.is_special))
        room -= len(text)
    return taken


def _reversed(segment: Segment) -> Segment:
    return Segment(segment.text[::-1], segment.is_trained, segment.is_special)


def _heading(number: int, sample: SamplePreview) -> str:
    tokens = f"{exact_count(sample.tokens)} tokens, {exact_count(sample.supervised)} of them learned"
    return f"{number}. {visible(sample.source)}: {tokens}"


def _text_of(segment: Segment) -> str:
    """Line ends are shown and stay; other controls become escapes."""
    return f"{LINE_END}\n".join(visible(line.replace("\t", "→ ")) for line in segment.text.split("\n"))


def _plain(pieces: Sequence[Segment | int]) -> str:
    found, is_open = [], False
    for piece in pieces:
        is_trained = isinstance(piece, Segment) and piece.is_trained
        if is_trained != is_open:
            found.append(OPEN if is_trained else CLOSE)
            is_open = is_trained
        found.append(_text_of(piece) if isinstance(piece, Segment) else _left_out(piece))
    return "".join(found) + (CLOSE if is_open else "")


def _left_out(count: int) -> str:
    return f" [... {exact_count(count)} characters ...] "


def _print_rich(console: Console, samples: Sequence[SamplePreview], most: int) -> None:
    from rich.text import Text

    console.print()
    legend = Text().append("examples", style="bold").append(": ").append("learned", style=TRAINED)
    legend.append(", ").append("context", style=CONTEXT).append(", ").append("special token", style=SPECIAL)
    console.print(legend.append(f"; {LINE_END} is a line end"))
    for number, sample in enumerate(samples, start=1):
        console.print()
        console.print(Text(_heading(number, sample), style="bold"))
        console.print(_coloured(cut_middle(sample.segments, most)), soft_wrap=False)


def _coloured(pieces: Sequence[Segment | int]) -> Text:
    from rich.text import Text

    text = Text(overflow="fold")
    for piece in pieces:
        if isinstance(piece, int):
            text.append(_left_out(piece), style=LEFT_OUT)
            continue
        style = TRAINED if piece.is_trained else CONTEXT
        text.append(_text_of(piece), style=f"{style} {SPECIAL}" if piece.is_special else style)
    return text
