"""``entrenar calibrate MODEL DATA -o FILE``: an importance matrix, as llama-imatrix writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from entrenar_cli.given_options import given_options
from entrenar_cli.options import DebugOption, DeviceOption, JsonOption, ThreadsOption


def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF model.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Texts: a file, folder or pattern such as data/*.jsonl.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The importance matrix to write, as GGUF.")
    ] = Path("imatrix.gguf"),
    rows: RowsOption = None,
    seq_len: SeqLenOption = None,
    columns: ColumnsOption = None,
    task: TaskOption = None,
    chat_template: TemplateOption = None,
    with_output: Annotated[
        bool, typer.Option("--output-matrix", help="Measure the inputs of the output matrix too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure on texts what quantization should be careful with."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.config.key_names import keys_named, options_named
    from entrenar_core.config.quantize_file import calibration_of
    from entrenar_core.stages.calibrate import run_calibrate

    values = [
        ("DATA", "quantize.calibration.data", data),
        *calibration_values(rows, seq_len, columns, task, chat_template),
    ]
    names = option_names(values)
    with options_named(names):
        calibration = calibration_of(list(given_options(values)))
    with keys_named(names), open_reporter(json_lines=json_lines) as reporter:
        run_calibrate(
            model,
            output,
            calibration,
            with_output=with_output,
            threads=threads,
            reporter=reporter,
            overwrite=overwrite,
            device=device,
        )
