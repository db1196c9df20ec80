"""What is said of the errors that a model was written with: a file for all tensors, an event, and a few sentences.

A change that training made is lost where rounding is larger than it: in 4 bits a step is about a tenth of the largest
weight of a block, and a small learning rate moves weights by less. So the two are held against each other.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from entrenar_core.config.root import Config
from entrenar_core.events import Notice, Reporter, Rounded, Saved
from entrenar_core.gguf.atomic import atomic_file
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.output_dir import MODEL, REPORT
from entrenar_core.stages.output_types import is_few_bits

SHOWN = 3
"""Tensors that are named."""


def report_rounding(
    errors: Sequence[TensorError], step: int, folder: Path, config: Config, reporter: Reporter
) -> Rounded | None:
    """Write `REPORT` and say what matters; None where nothing was rounded.

    Raises:
        OutputError: the file cannot be written.
    """
    if not errors:
        return None
    event = rounded_event(errors, step)
    content = json.dumps({"model": MODEL, **_plain(event)}, indent=1, allow_nan=False).encode()
    with atomic_file(folder / REPORT) as file:
        file.write(content)
    reporter.emit(Saved("report", folder / REPORT, len(content)))
    for notice in rounding_notices(errors, config):
        reporter.emit(notice)
    reporter.emit(event)
    return event


def rounded_event(errors: Sequence[TensorError], step: int) -> Rounded:
    """The errors as an event."""
    shares = [error.change_share for error in errors if error.change_share is not None]
    return Rounded(
        step=step,
        tensors=len(errors),
        median_change_share=statistics.median(shares) if shares else None,
        lost=sum(share > 1 for share in shares),
        errors={error.name: _fields(error) for error in errors},
    )


def rounding_notices(errors: Sequence[TensorError], config: Config) -> list[Notice]:
    """A summary where blocks of few bits were written, and a warning where changes are smaller than their rounding."""
    compared = sorted(
        ((share, error) for error in errors if (share := error.change_share) is not None),
        key=lambda pair: (-pair[0], pair[1].name),
    )
    if config.quantize is not None and config.quantize.stage == "qat":
        return [Notice("info", "the file decodes to exactly the weights that the last steps and evaluations used")]
    few_bits = [pair for pair in compared if is_few_bits(pair[1].type_name)]
    found = [_summary(few_bits)] if few_bits else []
    if lost := sum(share > 1 for share, _ in compared):
        message = f"in {lost} of {len(compared)} changed tensors rounding is larger than what training changed"
        found.append(Notice("warning", f"{message}, so much of it is lost in the file; {_remedy(config)}"))
    return found


def _summary(errors: Sequence[tuple[float, TensorError]]) -> Notice:
    """How large errors are beside changes; the worst come first."""
    worst = ", ".join(f"{error.name} {share:.2g}" for share, error in errors[:SHOWN])
    types = ", ".join(sorted({error.type_name for _, error in errors}))
    typical = statistics.median(share for share, _ in errors)
    message = f"{len(errors)} changed tensors are rounded to {types}: the error is {typical:.2g} of the change"
    return Notice("info", f"{message} (median); worst: {worst}")


def _remedy(config: Config) -> str:
    """What keeps the change."""
    quantize = config.quantize
    if quantize is not None and quantize.stage in ("qat", "output"):
        return "a type of more bits keeps it (q8_0), and quantize.stage: qat trains with the rounding"
    what = "output.type: q8_0 or f16 keeps it"
    return f"{what}, and so does the adapter beside the base" if config.lora is not None else what


def _fields(error: TensorError) -> dict[str, float | str | None]:
    share = error.change_share
    values = {key: value for key, value in asdict(error).items() if key != "name"}
    return {key: _significant(value) for key, value in {**values, "change_share": share}.items()}


def _significant(value: float | str | None) -> float | str | None:
    """Six digits are more than an error has."""
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _plain(event: Rounded) -> dict[str, object]:
    return {key: dict(value) if key == "errors" else value for key, value in asdict(event).items()}
