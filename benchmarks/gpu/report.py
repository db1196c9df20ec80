"""One table of everything that was found, and the same as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.child import Message

OK, FAILED, NOT_MEASURED = "ok", "FAILED", "not measured"
_PLAIN_WIDTH = 180


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        part: under which it stands.
        what: was tried.
        how: element type, sizes.
        found: the figure.
        against: a limit or a peer.
        verdict: on it.
    """

    part: str
    what: str
    how: str = ""
    found: str = ""
    against: str = ""
    verdict: str = ""


def lines_of_cases(part: str, outcome: Message, line_of: Any) -> Iterator[Line]:
    """Lines of a part that is made of cases; `line_of` describes one message."""
    for message in outcome["found"]:
        yield line_of(part, message)
    for name, error in outcome["failed"].items():
        yield Line(part, name, found=error, verdict=FAILED)
    for name in outcome["not_reached"]:
        yield Line(part, name, found="time", verdict=NOT_MEASURED)


def correctness_line(part: str, message: Message) -> Line:
    """Of one finding of `compare`."""
    if message["not_measured"]:
        return Line(part, message["name"], message["dtype"], message["not_measured"], verdict=NOT_MEASURED)
    faults = "; ".join(message["faults"])
    found = f"{message['error']:.1e}" + (f" {faults}" if faults else "")
    verdict = OK if message["ok"] else FAILED
    limit = f"≤ {message['tolerance']:.0e}" if message["tolerance"] else "equal"
    return Line(part, message["name"], message["dtype"], found, limit, verdict)


def micro_line(part: str, message: Message) -> Line:
    """Of one figure of `micro_cases`."""
    found = f"{message['value']:,.4g} {message['unit']}"
    return Line(part, message["name"], message["how"], found, message["against"], message["verdict"])


def render(title: str, lines: Iterable[Line], stream: TextIO) -> None:
    """Print the table: with colours and borders on a terminal, plain elsewhere."""
    console = Console(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False)
    table = Table(title=title, title_justify="left", box=None if not stream.isatty() else _box(), pad_edge=False)
    for column in ("", "how", "found", "against", "verdict"):
        table.add_column(column, overflow="fold")
    previous = ""
    for line in lines:
        if line.part != previous:
            table.add_section()
            table.add_row(f"[bold]{line.part}[/bold]")
            previous = line.part
        style = {FAILED: "red", NOT_MEASURED: "yellow"}.get(line.verdict)
        cells = (line.what, line.how, line.found, line.against, line.verdict)
        table.add_row(*(escaped(cell) for cell in cells), style=style)
    console.print(table)


def escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def write_json(path: Path, results: Message) -> None:
    """Everything, with null for what is no finite number."""
    path.write_text(json.dumps(finite(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None in place of NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def say(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)
