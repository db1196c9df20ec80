"""``entrenar train CONFIG``: the whole fine-tuning run that a YAML file describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set optimizer.lr=1e-4. May be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")
    ] = False,
    resume_from: Annotated[
        Path | None, typer.Option("--resume-from", metavar="PATH", help="Go on from this checkpoint.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", metavar="PATH", help="Short for --set training.output_dir=PATH.")
    ] = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune a model as a YAML file says."""
    from entrenar_core.config.load import load_config

    changes = list(overrides or [])
    if output_dir is not None:
        changes.append(f"training.output_dir={json.dumps(str(output_dir))}")
    checked = load_config(config, changes)

    from entrenar_cli.console import open_reporter
    from entrenar_core.stages.train import run_training

    start = resume_from or ("auto" if resume else None)
    with open_reporter(json_lines=json_lines, log_every=checked.training.log_every) as reporter:
        run_training(checked, resume_from=start, reporter=reporter)
