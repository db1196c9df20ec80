"""What `entrenar train` and `entrenar distill` share: their options, and the way from a YAML file to a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from entrenar_core.config.root import Config

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file that describes the run.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what the run would take and what is trained on; train nothing.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")]
ResumeFromOption = Annotated[
    Path | None, typer.Option("--resume-from", metavar="PATH", help="Go on from this checkpoint.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run has left in the output folder.")
]
OutputDirOption = Annotated[
    Path | None, typer.Option("--output-dir", metavar="PATH", help="Short for --set training.output_dir=PATH.")
]


@dataclass(frozen=True)
class Start:
    """How a run is started: where from, and whether it is only planned."""

    dry_run: bool
    resume: bool
    resume_from: Path | None
    overwrite: bool
    json_lines: bool

    @property
    def checkpoint(self) -> Path | str | None:
        """See `stages.train.ResumeFrom`."""
        return self.resume_from or ("auto" if self.resume else None)


def override(key: str, value: object) -> str:
    """``key=value`` as ``--set`` takes it; a path as its text."""
    return f"{key}={json.dumps(value, default=str)}"


def start_run(config: Config, start: Start) -> None:
    """Train as a checked configuration says, or show the plan of it."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.errors import ConfigError

    if start.overwrite and start.checkpoint is not None:
        raise ConfigError("--overwrite and --resume say opposite things", hint="leave one of them out")
    if start.dry_run:
        _show_plan(config, start)
        return

    from entrenar_core.stages.train import run_training

    with open_reporter(json_lines=start.json_lines, log_every=config.training.log_every) as reporter:
        run_training(config, resume_from=start.checkpoint, overwrite=start.overwrite, reporter=reporter)


def _show_plan(config: Config, start: Start) -> None:
    from entrenar_cli.console import open_reporter
    from entrenar_cli.plan_view import plan_document, show_plan
    from entrenar_core.events import SilentReporter
    from entrenar_core.stages.dry_run import plan_run

    if start.json_lines:
        from entrenar_cli.documents import write_document

        write_document(sys.stdout, plan_document(plan_run(config, SilentReporter(), resume_from=start.checkpoint)))
        return
    with open_reporter() as reporter:
        plan = plan_run(config, reporter, resume_from=start.checkpoint)
    show_plan(plan)
