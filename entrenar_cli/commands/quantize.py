"""``entrenar quantize MODEL -o OUT --type q4_k_m``: a model in few bits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from entrenar_cli.calibration_options import (
    ColumnsOption,
    RowsOption,
    SeqLenOption,
    TaskOption,
    TemplateOption,
    calibration_values,
    option_names,
)
from entrenar_cli.given_options import CONFIG_SUFFIXES, given_options, override_options
from entrenar_cli.options import DebugOption, JsonOption, SetOption, ThreadsOption

if TYPE_CHECKING:
    from entrenar_core.config.quantize_file import Option, QuantizeConfig


def quantize(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A GGUF model, or a YAML file that names one.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PATH", help="The GGUF file to write.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", "-t", metavar="TYPE", help="q4_0, q8_0, q4_k_m ...: names as llama-quantize has them."),
    ] = None,
    bits: Annotated[int | None, typer.Option(metavar="N", help="4 or 8: short for a type.")] = None,
    target_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Largest size of the file (700MB, 1.5GiB); types follow measured errors."),
    ] = None,
    pure: Annotated[bool | None, typer.Option("--pure", help="The same type for all matrices.")] = None,
    output_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the output matrix.")] = None,
    embedding_type: Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the token embedding.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=TYPE", help="Type of the tensors whose names match. May be repeated."),
    ] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help="Without or with an offset beside each scale.")
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(metavar="WHAT", help="What shares a scale: block, per_channel or per_tensor.")
    ] = None,
    allow_requantize: Annotated[
        bool | None, typer.Option("--allow-requantize", help="Round tensors again that have few bits already.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Texts whose activations say which columns matter.")
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(metavar="NAME", help="imatrix, minmax, percentile or moving_average.")
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="PATH", help="An importance matrix (GGUF), instead of texts.")
    ] = None,
    rows: RowsOption = None,
    seq_len: SeqLenOption = None,
    columns: ColumnsOption = None,
    task: TaskOption = None,
    chat_template: TemplateOption = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Most private memory.  [default: 512MiB]")] = None,
    threads: ThreadsOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the error of each tensor to a JSON file.")
    ] = None,
    show_report: Annotated[bool, typer.Option("--show-report", help="Show the error of each tensor.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show types and sizes; write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    overrides: SetOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model in few bits."""
    from entrenar_core.config.key_names import keys_named, options_named
    from entrenar_core.config.quantize_file import Option, quantize_config

    values = [
        ("-o", "output.path", output),
        ("--type", "quantize.type", kind),
        ("--bits", "quantize.bits", bits),
        ("--target-size", "quantize.target_size", target_size),
        ("--pure", "quantize.pure", pure),
        ("--output-type", "quantize.output_type", output_type),
        ("--embedding-type", "quantize.embedding_type", embedding_type),
        ("--tensor-type", "quantize.tensor_types", _types_by_pattern(tensor_type)),
        ("--symmetric" if symmetric else "--asymmetric", "quantize.symmetric", symmetric),
        ("--granularity", "quantize.granularity", granularity),
        ("--allow-requantize", "quantize.allow_requantize", allow_requantize),
        ("--calibrate", "quantize.calibration.data", calibrate),
        ("--calibration-method", "quantize.calibration.method", calibration_method),
        ("--imatrix", "quantize.calibration.imatrix", imatrix),
        *calibration_values(rows, seq_len, columns, task, chat_template),
        ("--memory", "run.memory", memory),
        ("--threads", "run.threads", threads),
        ("--report", "output.report", report),
    ]
    is_config = model.suffix.lower() in CONFIG_SUFFIXES
    source = [] if is_config else [Option("MODEL", ("model", "path"), str(model))]
    options = [*source, *given_options(values), *override_options(overrides)]
    if not is_config:
        _check_complete(options)
    names = option_names(values)
    with options_named(names):
        config = quantize_config(model if is_config else None, options)
    with keys_named({} if is_config else names):
        if dry_run:
            _show_plan(config, overwrite=overwrite, json_lines=json_lines)
        else:
            _write(config, overwrite=overwrite, show_report=show_report, json_lines=json_lines)


def _check_complete(options: Sequence[Option]) -> None:
    """Without a file the options have to say what is written."""
    from entrenar_core.errors import ConfigError

    keys = {option.key for option in options}
    if not any(("quantize", key) in keys for key in ("type", "bits", "target_size")):
        raise ConfigError("no type is named", hint="--type q4_k_m (q4_0, q8_0 ...), --bits 4, or --target-size 700MB")


def _types_by_pattern(given: Sequence[str] | None) -> dict[str, str] | None:
    from entrenar_core.errors import ConfigError

    found: dict[str, str] = {}
    for one in given or ():
        pattern, has_type, kind = one.rpartition("=")
        if not (has_type and pattern and kind):
            raise ConfigError(f"{one!r} is no PATTERN=TYPE", where="--tensor-type", hint="such as attn_v=q6_k")
        found[pattern] = kind
    return found or None


def _show_plan(config: QuantizeConfig, *, overwrite: bool, json_lines: bool) -> None:
    from entrenar_cli.console import open_reporter
    from entrenar_cli.quantize_view import plan_document, plan_sections
    from entrenar_core.events import SilentReporter
    from entrenar_core.stages.quantize_plan import opened_plan

    if json_lines:
        from entrenar_cli.documents import write_document

        with opened_plan(config, SilentReporter(), overwrite=overwrite, for_writing=False) as plan:
            write_document(sys.stdout, plan_document(plan))
        return
    from entrenar_cli.sections import print_sections

    with open_reporter() as reporter, opened_plan(config, reporter, overwrite=overwrite, for_writing=False) as plan:
        sections = plan_sections(plan)
    print_sections(sections)


def _write(config: QuantizeConfig, *, overwrite: bool, show_report: bool, json_lines: bool) -> None:
    from entrenar_cli.console import open_reporter
    from entrenar_core.stages.quantize import run_quantize

    measures = show_report or config.output.report is not None
    with open_reporter(json_lines=json_lines) as reporter:
        result = run_quantize(config, reporter, overwrite=overwrite, measures=measures)
    if show_report:
        if json_lines:
            from entrenar_cli.documents import write_document

            write_document(sys.stdout, result.document())
            return
        from entrenar_cli.quantize_view import report_sections
        from entrenar_cli.sections import print_sections

        print_sections(report_sections(result))
