"""The options that say which data a model is calibrated on, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from entrenar_cli.given_options import Values

RowsOption = Annotated[
    int | None, typer.Option("--rows", min=1, metavar="N", help="Most rows of tokens to calibrate on.  [default: 128]")
]
SeqLenOption = Annotated[
    int | None,
    typer.Option("--seq-len", min=2, metavar="N", help="Tokens of such a row; default: 512, or the model's context."),
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="ROLE=COLUMN", help="A column of its data, such as text=body. May be repeated."),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="What its data are: text, chat, instruction ...")
]
TemplateOption = Annotated[
    str | None,
    typer.Option("--chat-template", metavar="NAME", help="How its chats are written; default: the model's template."),
]


def calibration_values(
    rows: int | None, seq_len: int | None, columns: Sequence[str] | None, task: str | None, template: str | None
) -> Values:
    """What these options set in the section `quantize.calibration`."""
    values = [
        ("--rows", "rows", rows),
        ("--seq-len", "seq_len", seq_len),
        ("--columns", "columns", _column_by_role(columns)),
        ("--task", "task", task),
        ("--chat-template", "chat_template", template),
    ]
    return [(name, f"quantize.calibration.{key}", value) for name, key, value in values]


def option_names(values: Values) -> dict[str, str]:
    """Dotted key -> option, for messages; a column by its role too."""
    from entrenar_core.config.roles import ROLE_NAMES

    names = {key: name for name, key, _ in values}
    names["under quantize.calibration"] = "(option --columns ROLE=COLUMN)"
    return names | {f"quantize.calibration.columns.{role}": f"--columns {role}" for role in ROLE_NAMES}


def _column_by_role(given: Sequence[str] | None) -> dict[str, str] | None:
    from entrenar_core.errors import ConfigError

    found: dict[str, str] = {}
    for one in given or ():
        role, has_column, column = one.partition("=")
        if not (has_column and role.strip() and column):
            raise ConfigError(f"{one!r} is no ROLE=COLUMN", where="--columns", hint="such as text=body")
        found[role.strip()] = column
    return found or None
