"""``entrenar predict DATA --run FOLDER``: what a trained head says of new data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from entrenar_cli.options import DebugOption, DeviceOption, JsonOption, ThreadsOption


def predict(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A file, folder or pattern such as new/*.jsonl.", show_default=False),
    ],
    run: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The output folder of a classification or regression run.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the predictions, as parquet.")
    ] = Path("predictions.parquet"),
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns of the data to keep; default: all of them.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column to read; default: that of the training data.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The base model, if it is no longer where it was.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Texts of one forward pass; default: as in training.")
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    json_lines: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Predict classes or numbers for new data with a trained head."""
    from entrenar_cli.console import open_reporter
    from entrenar_core.stages.predict import PredictionSettings, run_predict

    settings = PredictionSettings(
        batch_size=batch_size,
        columns=None if columns is None else [name.strip() for name in columns.split(",") if name.strip()],
        text=text,
        model=model,
        threads=threads,
        device=device,
    )
    with open_reporter(json_lines=json_lines) as reporter:
        run_predict(run, data, output, settings=settings, reporter=reporter)
