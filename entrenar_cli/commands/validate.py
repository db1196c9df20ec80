"""``entrenar validate CONFIG``: is the YAML right, and do model, data and output folder fit it? Nothing is trained."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption, SetOption


def validate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")],
    overrides: SetOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a YAML file, and that its model, data and output folder can be used."""
    from entrenar_core.config.load import load_config

    checked = load_config(config, overrides or [])

    from entrenar_core.events import SilentReporter
    from entrenar_core.stages.dry_run import check_run

    found = check_run(checked, SilentReporter())
    if json_lines:
        from entrenar_cli.documents import write_document

        write_document(sys.stdout, found)
        return
    from entrenar_cli.plan_view import checked_sections
    from entrenar_cli.sections import print_sections

    print_sections(checked_sections(found), sys.stdout)
    command = "train" if checked.distill is None else "distill"
    typer.echo(f"\n{config} is valid. See what it would take: entrenar {command} {shlex.quote(str(config))} --dry-run")
