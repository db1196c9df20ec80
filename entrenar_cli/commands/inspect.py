"""``entrenar inspect PATH``: what is in a model, an adapter, a checkpoint, the folder of a run, or a data set."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A GGUF file, data, a checkpoint, or the folder of a run.", show_default=False
        ),
    ],
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what is in a model, an adapter, a checkpoint or a data set."""
    from entrenar_core.stages.inspect import inspect_path

    found = inspect_path(path)
    if json_lines:
        from entrenar_cli.documents import write_document

        write_document(sys.stdout, found)
        return
    from entrenar_cli.inspect_view import sections_of
    from entrenar_cli.sections import print_sections

    print_sections(sections_of(found))
