"""Every way a command can end badly: one clear message, one exit code, no traceback unless it is asked for.

2: the input was wrong. 1: the run failed. 70: a bug. 130: interrupted. 129, 143: SIGHUP, SIGTERM. 141: the reader of
the output went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from signal import Signals
from typing import Any

import typer
from typer.core import TyperCommand

from entrenar_cli.json_lines import write_line
from entrenar_cli.options import Call
from entrenar_cli.signals import Terminated, ending_signals_raised
from entrenar_core.errors import EntrenarError

INTERRUPTED = 130
BUG = 70
OUT_OF_MEMORY = 1
READER_LEFT = 141
SIGNAL_CODES = 128
"""Codes above it are this plus the number of the signal that ended the command, as shells have it."""


class ReportingCommand(TyperCommand):
    """A command whose errors become a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with ending_signals_raised():
                result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(report_interrupt(ctx.ensure_object(Call), interrupt)) from interrupt
        except BrokenPipeError as error:
            forget_stdout()
            raise typer.Exit(READER_LEFT) from error
        except Exception as error:
            raise typer.Exit(report_failure(error, ctx.ensure_object(Call))) from error
        return result


def report_failure(error: Exception, call: Call) -> int:
    """Say what went wrong, on stderr or as a JSON line; returns the exit code."""
    code, message, hint = _explain(error)
    if call.json_lines:
        write_line(sys.stdout, _as_json(error, code, message, hint))
    else:
        say_error(message, hint, is_interrupt=code > SIGNAL_CODES)
    if call.debug:
        traceback.print_exception(error)
    return code


def report_interrupt(call: Call, interrupt: KeyboardInterrupt) -> int:
    """Say that Ctrl-C or a signal ended the command outside the training loop, which has words of its own for it."""
    code, by = INTERRUPTED, ""
    if isinstance(interrupt, Terminated):
        code, by = SIGNAL_CODES + interrupt.number, f" by {Signals(interrupt.number).name}"
    if call.json_lines:
        content = {"event": "error", "kind": "Interrupted", "exit_code": code}
        write_line(sys.stdout, content | {"message": f"interrupted{by}", "where": None, "hint": None})
    else:
        typer.echo(f"{_label('interrupted', 'yellow')}{by}", err=True, color=_colour())
    return code


def say_error(message: str, hint: str | None = None, *, is_interrupt: bool = False) -> None:
    """A message for a person; in colour only on a terminal."""
    label = _label("interrupted:", "yellow") if is_interrupt else _label("error:", "red")
    typer.echo(f"{label} {message}", err=True, color=_colour())
    if hint:
        typer.echo(f"{_label('hint:', 'cyan')} {hint}", err=True, color=_colour())


def _label(text: str, colour: str) -> str:
    return typer.style(text, fg=colour, bold=True)


def reopen_closed_streams() -> None:
    """Let standard streams that the caller has closed (``>&-``) lead nowhere.

    Python has None for them, and their numbers would go to the next files that are opened: models, for example.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))


def forget_stdout() -> None:
    """Send what is left of stdout nowhere, so that the interpreter does not stumble over it at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _colour() -> bool | None:
    return False if os.environ.get("NO_COLOR") else None


def _explain(error: Exception) -> tuple[int, str, str | None]:
    """Exit code, message and hint."""
    if isinstance(error, EntrenarError):
        place = f"{error.where}: " if error.where else ""
        return error.exit_code, f"{place}{error.message}", error.hint
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY, f"out of memory: {error}", "reduce data.batch_size or data.seq_len"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return BUG, f"unexpected {said}", "this is a bug in entrenar; run again with --debug and report what it shows"


def _as_json(error: Exception, code: int, message: str, hint: str | None) -> dict[str, object]:
    content: dict[str, object] = {"event": "error", "kind": _kind(error), "exit_code": code}
    if isinstance(error, EntrenarError):
        content |= {"message": error.message, "where": error.where, "hint": error.hint}
        problems = getattr(error, "problems", ())
        if problems:
            content["problems"] = [
                {"where": one.where, "key": one.key, "message": one.message, "hint": one.hint} for one in problems
            ]
        return content
    return content | {"message": message, "where": None, "hint": hint}


def _kind(error: Exception) -> str:
    """The name of the error in the public hierarchy."""
    public = (base.__name__ for base in type(error).__mro__ if base.__module__ == EntrenarError.__module__)
    return next(public, type(error).__name__)
