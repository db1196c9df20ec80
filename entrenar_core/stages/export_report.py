"""What is said of the errors that a model was written with: a file for all tensors, an event, and a few sentences.

A change that training made is lost where rounding is larger than it: in 4 bits a step is about a tenth of the largest
weight of a block, and a small learning rate moves weights by less. So the two are held against each other.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.config.root import Config
from entrenar_core.events import Notice, Reporter, Rounded, Saved
from entrenar_core.gguf.atomic import atomic_file
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.output_dir import MODEL, REPORT

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
    if config.quantize is not None and config.quantize.stage == "qat":
        return [Notice("info", "the file decodes to exactly the weights that the last steps and evaluations used")]
    compared = _compared(errors)
    few_bits = [pair for pair in compared if is_few_bits(pair[1].type_name)]
    found = [_summary(few_bits)] if few_bits else []
    lost = [error.type_name for share, error in compared if share > 1]
    return [*found, _warning(lost, len(compared), config)] if lost else found


def _compared(errors: Sequence[TensorError]) -> list[tuple[float, TensorError]]:
    """The tensors whose change is known, with the error beside it, the worst first."""
    found = ((share, error) for error in errors if (share := error.change_share) is not None)
    return sorted(found, key=lambda pair: (-pair[0], pair[1].name))


def _warning(lost: Sequence[str], count: int, config: Config) -> Notice:
    """Of `count` changed tensors, those of the types in `lost` are not what training made of them."""
    message = f"in {len(lost)} of {count} changed tensors rounding is larger than what training changed"
    return Notice("warning", f"{message}, so much of it is lost in the file; {_remedy(config, lost)}")


def _summary(errors: Sequence[tuple[float, TensorError]]) -> Notice:
    """How large errors are beside changes; the worst come first."""
    worst = ", ".join(f"{error.name} {share:.2g}" for share, error in errors[:SHOWN])
    types = ", ".join(sorted({error.type_name for _, error in errors}))
    typical = statistics.median(share for share, _ in errors)
    what = "1 changed tensor is" if len(errors) == 1 else f"{len(errors)} changed tensors are"
    message = f"{what} rounded to {types}: the error is {typical:.2g} of the change"
    return Notice("info", f"{message} (median); worst: {worst}")


def _remedy(config: Config, lossy: Collection[str]) -> str:
    """What keeps the change that is lost in these types."""
    quantize, wider = config.quantize, _wider_than(lossy)
    if quantize is not None and quantize.stage in ("qat", "output"):
        return f"a type of more bits keeps it ({wider}), and quantize.stage: qat trains with the rounding"
    what = f"output.type: {wider} keeps it"
    return f"{what}, and so does the adapter beside the base" if config.lora is not None else what


def _wider_than(types: Collection[str]) -> str:
    """Types that lose less than all of these."""
    if not all(map(is_few_bits, types)):
        return "f32"
    return "f16" if "Q8_0" in types else "q8_0 or f16"


def _fields(error: TensorError) -> dict[str, float | str | None]:
    share = error.change_share
    values = {key: value for key, value in asdict(error).items() if key != "name"}
    return {key: _significant(value) for key, value in {**values, "change_share": share}.items()}


def _significant(value: float | str | None) -> float | str | None:
    """Six digits are more than an error has."""
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _plain(event: Rounded) -> dict[str, object]:
    return {key: dict(value) if key == "errors" else value for key, value in asdict(event).items()}
