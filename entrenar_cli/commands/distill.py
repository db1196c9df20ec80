"""``entrenar distill CONFIG``: a training run whose model learns from teachers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption, SetOption
from entrenar_cli.training import (
    ConfigArgument,
    DryRunOption,
    OutputDirOption,
    OverwriteOption,
    ResumeFromOption,
    ResumeOption,
    Start,
    override,
    start_run,
)


def distill(
    config: ConfigArgument,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Short for --set distill.teacher=PATH. Several are equal teachers."),
    ] = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = False,
    resume_from: ResumeFromOption = None,
    overwrite: OverwriteOption = False,
    output_dir: OutputDirOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a model on the predictions of a larger one, as a YAML file says."""
    from entrenar_core.config.load import load_config
    from entrenar_core.errors import ConfigError

    changes = [*(overrides or []), *_teachers(teacher or [])]
    if output_dir is not None:
        changes.append(override("training.output_dir", output_dir))
    checked = load_config(config, changes)
    if checked.distill is None:
        name = shlex.quote(str(config))
        raise ConfigError(
            "there is no distill section, so there is no teacher",
            where=str(config),
            hint=f"add distill: {{teacher: big.gguf}}, or give --teacher big.gguf; without one: entrenar train {name}",
        )
    start_run(checked, Start(dry_run, resume, resume_from, overwrite, json_lines))


def _teachers(paths: Sequence[Path]) -> list[str]:
    """Overrides that put these teachers in the place of those of the file."""
    if not paths:
        return []
    if len(paths) == 1:
        return [override("distill.teachers", None), override("distill.teacher", paths[0])]
    return [override("distill.teacher", None), override("distill.teachers", list(paths))]
