"""``entrenar merge A.gguf B.gguf --base base.gguf --method ties -o out.gguf``: several models become one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entrenar_cli.given_options import CONFIG_SUFFIXES, Values, given_options, override_options
from entrenar_cli.options import DebugOption, JsonOption, SetOption, ThreadsOption

if TYPE_CHECKING:
    from entrenar_core.config.merge_file import MergeConfig
    from entrenar_core.config.quantize_file import Option


def merge(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="GGUF files or Hugging Face folders, also as MODEL+ADAPTER; or one YAML file, ours or mergekit's.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="The GGUF file (or folder) to write.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that the others came from; slerp: the one at t = 0."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", metavar="NAME", help="linear, slerp, ties, dare_ties, della ..."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A LoRA adapter: the base with it is one more model. May be repeated."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help="Factor: once for all models, or once for each; may be negative."),
    ] = None,
    density: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE", help="Share of each change that is kept: once, or once for each model."),
    ] = None,
    t: Annotated[
        float | None, typer.Option("--t", metavar="T", help="slerp: the way from one model to the other.")
    ] = None,
    lambda_: Annotated[float | None, typer.Option("--lambda", metavar="L", help="Factor of the merged change.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Divide by the sum of the weights, or do not.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="dare, della: what is dropped follows from it.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="WHICH", help="For models with different tokens: union, or base.")
    ] = None,
    task_vector: Annotated[
        bool | None, typer.Option("--task-vector", help="Write the change against the base, not the model.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="f16, q4_0, q4_k_m ...; default: as the base has them.")
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="gguf, or safetensors for a Hugging Face folder.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Most private memory.  [default: 512MiB]")] = None,
    threads: ThreadsOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write what became of each tensor to a JSON file.")
    ] = None,
    show_report: Annotated[bool, typer.Option("--show-report", help="Show what became of each tensor.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be merged; write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    overrides: SetOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Join several models into one."""
    from entrenar_core.config.key_names import keys_named, options_named
    from entrenar_core.config.merge_file import merge_config

    config_file, named = _file_or_models(models, adapter)
    values = [
        ("--method", "merge.method", method),
        ("--base", "merge.base", base),
        *_models(named, adapter),
        ("--weight", "merge.weight", weight),
        ("--density", "merge.density", density),
        ("--t", "merge.t", t),
        ("--lambda", "merge.lambda", lambda_),
        ("--normalize" if normalize else "--no-normalize", "merge.normalize", normalize),
        ("--seed", "merge.seed", seed),
        ("--tokenizer", "merge.tokenizer", tokenizer),
        ("--task-vector", "output.task_vector", task_vector),
        ("-o", "output.path", output),
        ("--type", "output.type", kind),
        ("--format", "output.format", file_format),
        ("--memory", "run.memory", memory),
        ("--threads", "run.threads", threads),
        ("--report", "output.report", report),
    ]
    options = [*given_options(values), *override_options(overrides)]
    if config_file is None:
        _check_method(options)
    names = {key: name for name, key, _ in values}
    with options_named(names):
        config = merge_config(config_file, options)
    with keys_named({} if config_file is not None else names):
        if dry_run:
            _show_plan(config, overwrite=overwrite, json_lines=json_lines)
        else:
            _write(config, overwrite=overwrite, show_report=show_report, json_lines=json_lines)


def _file_or_models(
    given: Sequence[str] | None, adapters: Sequence[str] | None
) -> tuple[Path | None, Sequence[str] | None]:
    """The YAML file, or the models.

    Raises:
        ConfigError: both, or neither.
    """
    from entrenar_core.errors import ConfigError

    files = [one for one in given or () if one.lower().endswith(CONFIG_SUFFIXES)]
    if files and given != files[:1]:
        hint = "name the models in the file, or give options alone"
        raise ConfigError("a configuration cannot stand beside models", where=files[0], hint=hint)
    if not given and not adapters:
        hint = "entrenar merge A.gguf B.gguf --base BASE.gguf --method ties -o OUT.gguf, or entrenar merge FILE.yaml"
        raise ConfigError("no models are named", hint=hint)
    return (Path(files[0]), None) if files else (None, given)


def _check_method(options: Sequence[Option]) -> None:
    """Without a file the options have to say how the models are joined."""
    from entrenar_core.errors import ConfigError

    if not any(option.key == ("merge", "method") for option in options):
        raise ConfigError("no method is named", hint="--method ties (linear, slerp, task_arithmetic, dare_ties ...)")


def _models(named: Sequence[str] | None, adapters: Sequence[str] | None) -> Values:
    from entrenar_core.config.merge_options import ADAPTERS, MODELS

    return [
        ("MODEL", ".".join(MODELS), named),
        ("--adapter", ".".join(ADAPTERS), adapters),
    ]


def _show_plan(config: MergeConfig, *, overwrite: bool, json_lines: bool) -> None:
    from entrenar_cli.merge_view import plan_document, plan_sections
    from entrenar_core.stages.merge import opened_merge

    with opened_merge(config, overwrite=overwrite) as opened:
        if json_lines:
            from entrenar_cli.documents import write_document

            write_document(sys.stdout, plan_document(opened))
            return
        from entrenar_cli.sections import print_sections

        print_sections(plan_sections(opened))


def _write(config: MergeConfig, *, overwrite: bool, show_report: bool, json_lines: bool) -> None:
    from entrenar_cli.console import open_reporter
    from entrenar_core.stages.merge import run_merge

    with open_reporter(json_lines=json_lines) as reporter:
        result = run_merge(config, reporter, overwrite=overwrite, measures=show_report)
    if not show_report:
        return
    if json_lines:
        from entrenar_cli.documents import write_document

        write_document(sys.stdout, result.document())
        return
    from entrenar_cli.merge_view import report_sections
    from entrenar_cli.sections import print_sections

    print_sections(report_sections(result))
