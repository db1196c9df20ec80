"""``entrenar schema``: the JSON Schema of the YAML, for editors that complete and check it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.json_lines import write_line
from entrenar_cli.options import DebugOption, JsonOption


class Command(StrEnum):
    """Whose file the schema is for."""

    TRAIN = "train"
    QUANTIZE = "quantize"
    MERGE = "merge"


def schema(
    command: Annotated[
        Command, typer.Argument(metavar="COMMAND", help="Whose YAML: train, quantize or merge.", show_default=True)
    ] = Command.TRAIN,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
    ] = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the JSON Schema of the YAML, by which editors complete and check it."""
    from entrenar_core.config.json_schema import json_schema, merge_schema, quantize_schema

    make = {Command.TRAIN: json_schema, Command.QUANTIZE: quantize_schema, Command.MERGE: merge_schema}
    content = make[command]()
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    if output is None:
        typer.echo(json.dumps(content, ensure_ascii=False) if json_lines else text.rstrip())
        return

    from entrenar_core.errors import OutputError
    from entrenar_core.gguf.atomic import atomic_file

    if output.is_dir():
        raise OutputError("there is a folder of this name", where=str(output), hint="choose another file name")

    with atomic_file(output) as file:
        file.write(text.encode())
    if json_lines:
        write_line(sys.stdout, {"event": "saved", "kind": "schema", "path": str(output), "n_bytes": len(text.encode())})
    else:
        typer.echo(f"{output} is written; name it in the first line of your YAML:", err=True)
        typer.echo(f"# yaml-language-server: $schema={output}", err=True)
