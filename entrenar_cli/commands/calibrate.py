"""``entrenar calibrate MODEL DATA -o FILE``: an importance matrix, as llama-imatrix writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, JsonOption, ThreadsOption


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
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Most rows of tokens that are read.")] = 128,
    seq_len: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Tokens of a row; default: 512, or the model's context.")
    ] = None,
    with_output: Annotated[
        bool, typer.Option("--output-matrix", help="Measure the inputs of the output matrix too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    threads: ThreadsOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure on texts what quantization should be careful with."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.config.quantize import Calibration
    from entrenar_core.stages.calibrate import run_calibrate

    given = Calibration(data=data, rows=rows)
    calibration = given if seq_len is None else Calibration(data=data, rows=rows, seq_len=seq_len)
    with open_reporter(json_lines=json_lines) as reporter:
        run_calibrate(
            model,
            output,
            calibration,
            with_output=with_output,
            threads=threads,
            reporter=reporter,
            overwrite=overwrite,
        )
