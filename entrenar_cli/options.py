"""Options that every command has, and what they set for the whole call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer


@dataclass
class Call:
    """How this call of the command line wants to be answered; the object of Typer's context."""

    json_lines: bool = False
    debug: bool = False


def call_of(context: typer.Context) -> Call:
    """The Call of a context; a fresh one where a command is run by itself."""
    return context.ensure_object(Call)


def _remember_json(context: typer.Context, value: bool) -> bool:
    call = call_of(context)
    call.json_lines = call.json_lines or value
    return value


def _remember_debug(context: typer.Context, value: bool) -> bool:
    call = call_of(context)
    call.debug = call.debug or value
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Write events and errors as JSON lines on stdout.", callback=_remember_json, is_eager=True
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True)
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads; default: one for each physical core.")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="What to compute on; auto: an NVIDIA GPU if there is one and the work is long enough for it."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set optimizer.lr=1e-4. May be repeated."),
]
