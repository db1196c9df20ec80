"""Facts and tables for people: rich on a terminal, plain aligned text everywhere else.

What a command has to say is a list of sections without any markup; cells are taken literally and made `visible` here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from entrenar_cli.visible import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass(frozen=True)
class Facts:
    """Names and values, one pair a line; a pair whose value is empty is left out."""

    title: str
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under `columns`. `numbers` are the columns that are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


Section = Facts | Table


def print_sections(sections: Sequence[Section], out: TextIO | None = None) -> None:
    """Write sections to `out` (default: stdout), with a blank line between them; empty ones are left out."""
    stream = sys.stdout if out is None else out
    shown = [section for section in sections if _has_content(section)]
    if not stream.isatty():
        stream.write("\n".join(plain_text(section) for section in shown))
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    for index, section in enumerate(shown):
        if index:
            console.print()
        print_rich(console, section)


def print_rich(console: Console, section: Section) -> None:
    """Draw one section."""
    from rich.text import Text

    if section.title:
        console.print(Text(visible(section.title), style="bold"))
    console.print(_facts(section) if isinstance(section, Facts) else _table(section))


def plain_text(section: Section) -> str:
    """One section as aligned lines, each ended by a line break; nothing is wrapped or cut."""
    from rich.cells import cell_len

    rows, numbers = (_pairs(section), frozenset[int]()) if isinstance(section, Facts) else _cells(section)
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{visible(section.title)}"] if section.title else []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            room = " " * (widths[column] - cell_len(cell))
            cells.append(room + cell if column in numbers else cell + room)
        lines.append("  " + "  ".join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)


def _has_content(section: Section) -> bool:
    return bool(_pairs(section)) if isinstance(section, Facts) else bool(section.rows)


def _pairs(section: Facts) -> list[tuple[str, str]]:
    return [(visible(name), visible(value)) for name, value in section.pairs if value]


def _cells(section: Table) -> tuple[list[tuple[str, ...]], frozenset[int]]:
    rows = [tuple(visible(cell) for cell in row) for row in (section.columns, *section.rows)]
    return rows, section.numbers


def _facts(section: Facts) -> RenderableType:
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _pairs(section):
        grid.add_row(Text(f"  {name}"), Text(value))
    return grid


def _table(section: Table) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    rows, numbers = _cells(section)
    for column, name in enumerate(rows[0]):
        is_number = column in numbers
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    return table
