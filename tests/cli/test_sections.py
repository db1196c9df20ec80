"""Facts and tables on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from entrenar_cli.sections import Facts, Section, Table, print_sections
from tests.cli.terminal import terminal

FACTS = Facts("model", [("name", "tiny"), ("empty", ""), ("size", "1.8 MiB")])
TABLE = Table("columns", ("name", "rows"), [("text", "12"), ("日本", "3,456")], frozenset({1}))
EVIL = Facts("[bold]title[/bold]", [("name", "[red]x[/red] \x1b[2J :smile:")])


def piped(*sections: Section) -> str:
    out = io.StringIO()
    print_sections(sections, out)
    return out.getvalue()


def test_a_pipe_gets_aligned_lines_without_colours() -> None:
    assert piped(FACTS) == "model\n  name  tiny\n  size  1.8 MiB\n"


def test_numbers_are_aligned_to_the_right_and_wide_letters_are_counted_twice() -> None:
    assert piped(TABLE) == "columns\n  name   rows\n  text     12\n  日本  3,456\n"


def test_sections_without_content_are_left_out() -> None:
    assert piped(Facts("nothing", [("a", "")]), Table("none", ("a",), []), FACTS) == piped(FACTS)


def test_a_blank_line_stands_between_sections() -> None:
    assert piped(FACTS, FACTS) == f"{piped(FACTS)}\n{piped(FACTS)}"


def test_a_pipe_sees_no_markup_and_no_control_characters() -> None:
    assert piped(EVIL) == "[bold]title[/bold]\n  name  [red]x[/red] \\x1b[2J :smile:\n"


def test_a_terminal_sees_them_as_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, 80)
    print_sections([EVIL], screen)
    assert screen.lines() == ["[bold]title[/bold]", "  name  [red]x[/red] \\x1b[2J :smile:"]
    assert "\x1b[2J" not in screen.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = terminal(monkeypatch, width)
    words = [f"word{n}" for n in range(60)]
    facts = Facts("title", [("a name", " ".join(words))])
    table = Table("table", ("column", "value", "count"), [("name", " ".join(words), "12")], frozenset({2}))
    print_sections([facts, table], screen)
    assert max(cell_len(line) for line in screen.lines()) <= width
    text = "".join(line.replace(" ", "") for line in screen.lines())
    assert all(word in text for word in words) or width == 40
