"""The preview of examples: what is learned is marked, the middle of long ones is cut, nothing is interpreted."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_cli.preview import cut_middle, print_previews
from entrenar_core.stages.plan_types import SamplePreview
from entrenar_core.stages.preview import Segment
from tests.cli.terminal import terminal

CHAT = (
    Segment("<|user|>", False, is_special=True),
    Segment("Say [bold]hi[/bold]\n\x1b[31m", False),
    Segment("<|end|>", False, is_special=True),
    Segment("hi", True),
    Segment("<|end|>", True, is_special=True),
)
SAMPLE = SamplePreview("chat.jsonl, row 1", 9, 2, CHAT)


def plain(*samples: SamplePreview, most: int = 1200) -> str:
    out = io.StringIO()
    print_previews(samples, out, most)
    return out.getvalue()


def test_without_colours_what_is_learned_stands_in_brackets() -> None:
    assert plain(SAMPLE).splitlines()[-2:] == [
        "<|user|>Say [bold]hi[/bold]↵",
        "\\x1b[31m<|end|>⟦hi<|end|>⟧",
    ]


def test_the_heading_counts_tokens_and_a_legend_explains_the_marks() -> None:
    lines = plain(SAMPLE).splitlines()
    assert "1. chat.jsonl, row 1: 9 tokens, 2 of them learned" in lines
    assert "⟦learned⟧" in lines[1]


def test_a_terminal_shows_the_same_text_in_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, 80)
    print_previews([SAMPLE], screen)
    assert screen.lines()[-2:] == ["<|user|>Say [bold]hi[/bold]↵", "\\x1b[31m<|end|>hi<|end|>"]
    assert "\x1b[1;32mhi" in screen.getvalue()
    assert "\x1b[31m" not in screen.getvalue()


def test_without_examples_nothing_is_said() -> None:
    assert plain() == ""


SEGMENTS = st.lists(st.builds(Segment, st.text(max_size=30), st.booleans(), is_special=st.just(False)), max_size=12)


@pytest.mark.property
@given(SEGMENTS, st.integers(2, 60))
def test_the_cut_leaves_both_ends_and_counts_what_is_gone(segments: list[Segment], most: int) -> None:
    whole = "".join(segment.text for segment in segments)
    pieces = cut_middle(segments, most)
    gaps = [index for index, piece in enumerate(pieces) if isinstance(piece, int)]
    if len(whole) <= most:
        assert pieces == segments
        return
    (gap,) = gaps
    head = "".join(piece.text for piece in pieces[:gap] if isinstance(piece, Segment))
    tail = "".join(piece.text for piece in pieces[gap + 1 :] if isinstance(piece, Segment))
    assert len(head) == len(tail) == most // 2
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert pieces[gap] == len(whole) - len(head) - len(tail)


@pytest.mark.property
@given(SEGMENTS, st.integers(2, 60))
def test_a_cut_changes_no_mark(segments: list[Segment], most: int) -> None:
    flags = [segment.is_trained for segment in segments for _ in segment.text]
    shown: list[bool | None] = []
    for piece in cut_middle(segments, most):
        shown += [None] * piece if isinstance(piece, int) else [piece.is_trained] * len(piece.text)
    assert len(shown) == len(flags)
    assert all(mark is None or mark == flag for mark, flag in zip(shown, flags, strict=True))


def test_a_special_token_is_never_cut() -> None:
    segments = [Segment("a" * 8, False), Segment("<|special|>", False, is_special=True), Segment("b" * 90, True)]
    pieces = cut_middle(segments, 20)
    assert segments[1] in pieces
