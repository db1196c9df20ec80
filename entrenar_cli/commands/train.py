"""``entrenar train CONFIG``: the whole fine-tuning run that a YAML file describes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption, SetOption

if TYPE_CHECKING:
    from entrenar_core.config.root import Config


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")],
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the run would take and what is trained on; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")
    ] = False,
    resume_from: Annotated[
        Path | None, typer.Option("--resume-from", metavar="PATH", help="Go on from this checkpoint.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier run has left in the output folder.")
    ] = False,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", metavar="PATH", help="Short for --set training.output_dir=PATH.")
    ] = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune a model as a YAML file says."""
    from entrenar_core.config.load import load_config
    from entrenar_core.errors import ConfigError

    changes = list(overrides or [])
    if output_dir is not None:
        changes.append(f"training.output_dir={json.dumps(str(output_dir))}")
    checked = load_config(config, changes)

    from entrenar_cli.console import open_reporter

    start = resume_from or ("auto" if resume else None)
    if overwrite and start is not None:
        raise ConfigError("--overwrite and --resume say opposite things", hint="leave one of them out")
    if dry_run:
        _show_plan(checked, start, json_lines=json_lines)
        return

    from entrenar_core.stages.train import run_training

    with open_reporter(json_lines=json_lines, log_every=checked.training.log_every) as reporter:
        run_training(checked, resume_from=start, overwrite=overwrite, reporter=reporter)


def _show_plan(config: Config, start: Path | str | None, *, json_lines: bool) -> None:
    from entrenar_cli.console import open_reporter
    from entrenar_cli.plan_view import plan_document, show_plan
    from entrenar_core.events import SilentReporter
    from entrenar_core.stages.dry_run import plan_run

    if json_lines:
        from entrenar_cli.documents import write_document

        write_document(sys.stdout, plan_document(plan_run(config, SilentReporter(), resume_from=start)))
        return
    with open_reporter() as reporter:
        plan = plan_run(config, reporter, resume_from=start)
    show_plan(plan)
