"""``entrenar init``: write a first YAML for a model and a data set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entrenar_cli.json_lines import write_line
from entrenar_cli.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from entrenar_core.data.task_columns import TaskColumns
    from entrenar_core.stages.init import InitRequest

MODEL_SUFFIXES = (".gguf",)
COMMAND_LINE_FORM = "`entrenar init` takes a column as --column ROLE=NAME, and a task as --task TASK"
DATA_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow", ".feather")


def init(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A GGUF model.", show_default=False)] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="A data file, folder or pattern.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "config.yaml"
    ),
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="What the data are for, where their columns leave that open."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="A column: --column prompt=question. May be repeated."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="PATH", help="A larger GGUF model whose predictions are learned too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a commented YAML for a model and its data; asks for what it cannot find out."""
    from entrenar_core.errors import OutputError
    from entrenar_core.gguf.atomic import atomic_file
    from entrenar_core.stages.init import InitRequest

    if output.exists() and not force:
        raise OutputError("the file exists already", where=str(output), hint="name another one with -o, or add --force")
    may_ask = sys.stdin.isatty() and sys.stderr.isatty() and not json_lines
    model = model or _the_only("model", MODEL_SUFFIXES, may_ask)
    data = data or _the_only("data", DATA_SUFFIXES, may_ask)
    request = InitRequest(model, data, task, _columns(column or []), teacher)
    text = _draft(request, str(output), may_ask=may_ask)
    content = text.encode()
    with atomic_file(output) as file:
        file.write(content)
    command = "train" if teacher is None else "distill"
    _report(output, text, len(content), command, json_lines=json_lines)


def _draft(request: InitRequest, name: str, *, may_ask: bool) -> str:
    """The YAML; which of several choices is meant is asked."""
    from entrenar_core.data.task_errors import TaskError
    from entrenar_core.stages.init import draft_config

    try:
        return draft_config(request, name).text
    except TaskError as error:
        if not (may_ask and error.candidates):
            error.hint = f"{error.hint}\n  {COMMAND_LINE_FORM}"
            raise
        typer.echo(f"{error.where}: several choices of columns fit:", err=True)
        chosen = _ask_choice(error.candidates)
    return draft_config(replace(request, task=str(chosen.task), columns=chosen.columns), name).text


def _ask_choice(candidates: Sequence[TaskColumns]) -> TaskColumns:
    """The one that a person names by its number; asked again until it is one."""
    for number, one in enumerate(candidates, start=1):
        typer.echo(f"  {number}. {one}", err=True)

    def index(answer: str) -> int:
        if not answer.strip().isdecimal() or not 1 <= int(answer) <= len(candidates):
            raise typer.BadParameter(f"a number from 1 to {len(candidates)}, please")
        return int(answer) - 1

    chosen: int = typer.prompt("Which one", value_proc=index, err=True)
    return candidates[chosen]


def _the_only(kind: str, suffixes: tuple[str, ...], may_ask: bool) -> str:
    """The only file here that can be meant, else the answer of a person."""
    from entrenar_core.errors import ConfigError

    found = sorted(path.name for path in Path().iterdir() if path.suffix.lower() in suffixes and path.is_file())
    if len(found) == 1:
        typer.echo(f"{kind}: {found[0]} (the only one here)", err=True)
        return found[0]
    listed = f"here are {', '.join(found[:10])}" if found else f"there is none in this folder ({', '.join(suffixes)})"
    if not may_ask:
        raise ConfigError(f"which {kind}? {listed}", hint="name both: entrenar init MODEL DATA")
    typer.echo(f"Which {kind}? {listed}", err=True)
    return str(typer.prompt("file", err=True))


def _columns(pairs: list[str]) -> dict[str, str]:
    """Roles and columns of ``--column role=name``."""
    from entrenar_core.errors import ConfigError

    columns = {}
    for pair in pairs:
        role, has_name, name = pair.partition("=")
        if not has_name or not role.strip() or not name:
            raise ConfigError(
                "a column is written role=name", where=f"--column {pair}", hint="for example --column prompt=question"
            )
        columns[role.strip()] = name
    return columns


def _report(path: Path, text: str, n_bytes: int, command: str, *, json_lines: bool) -> None:
    """Show the text, and the `command` that comes next."""
    if json_lines:
        write_line(sys.stdout, {"event": "saved", "kind": "config", "path": str(path), "n_bytes": n_bytes})
        return
    typer.echo(text, nl=False)
    typer.echo(f"\n{path} is written. Next: entrenar {command} {shlex.quote(str(path))} --dry-run", err=True)
