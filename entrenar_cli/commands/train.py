"""``entrenar train CONFIG``: the whole fine-tuning run that a YAML file describes."""

from __future__ import annotations

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


def train(
    config: ConfigArgument,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = False,
    resume_from: ResumeFromOption = None,
    overwrite: OverwriteOption = False,
    output_dir: OutputDirOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Fine-tune a model as a YAML file says."""
    from entrenar_core.config.load import load_config

    changes = list(overrides or [])
    if output_dir is not None:
        changes.append(override("training.output_dir", output_dir))
    checked = load_config(config, changes)
    start_run(checked, Start(dry_run, resume, resume_from, overwrite, json_lines))
