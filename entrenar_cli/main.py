"""The command line: ``entrenar COMMAND``.

Only Typer is imported here; the bodies of the commands import the engine, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn, cast

import typer

from entrenar_cli.commands.calibrate import calibrate
from entrenar_cli.commands.distill import distill
from entrenar_cli.commands.eval import eval_
from entrenar_cli.commands.generate import generate
from entrenar_cli.commands.init import init
from entrenar_cli.commands.inspect import inspect
from entrenar_cli.commands.merge import merge
from entrenar_cli.commands.predict import predict
from entrenar_cli.commands.quantize import quantize
from entrenar_cli.commands.schema import schema
from entrenar_cli.commands.train import train
from entrenar_cli.commands.validate import validate
from entrenar_cli.failures import INTERRUPTED, ReportingCommand, reopen_closed_streams
from entrenar_cli.json_lines import write_line
from entrenar_cli.options import Call

COMMANDS = (init, validate, train, distill, predict, eval_, generate, quantize, calibrate, merge, inspect, schema)
USAGE_ERROR = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""The parent of everything Typer says about wrong arguments; Typer exports only this child of it."""


def _version(value: bool) -> None:
    if value:
        from entrenar_core import __version__

        typer.echo(f"entrenar {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune GGUF models from one YAML file, with no PyTorch."""


def build_app() -> typer.Typer:
    """The Typer application with all commands."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in COMMANDS:
        app.command(command.__name__.rstrip("_"), cls=ReportingCommand)(command)
    return app


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    call = Call()
    try:
        code = build_app()(list(arguments), prog_name="entrenar", standalone_mode=False, obj=call)
    except USAGE_ERROR as error:
        return _report_usage(error, as_json="--json" in arguments)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _report_usage(error: typer.BadParameter, *, as_json: bool) -> int:
    if as_json:
        content = {"event": "error", "kind": "UsageError", "exit_code": error.exit_code}
        write_line(sys.stdout, content | {"message": error.format_message(), "where": None, "hint": None})
    else:
        error.show()
    return error.exit_code


def run() -> NoReturn:
    """The entry point of the installed command."""
    reopen_closed_streams()
    sys.exit(main(sys.argv[1:]))
