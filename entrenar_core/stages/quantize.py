"""The stage of `entrenar quantize`: a GGUF file in, the same model in other types out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from entrenar_core.codecs.base import Codec
from entrenar_core.config.quantize import Quantize
from entrenar_core.config.quantize_file import QuantizeConfig, Running
from entrenar_core.events import Notice, Quantized, Quantizing, Reporter, Saved
from entrenar_core.gguf.reserve import reserved
from entrenar_core.gguf.writer import write_filled
from entrenar_core.quant.convert import Conversion, Progress, convert
from entrenar_core.quant.error_sums import ErrorSums
from entrenar_core.quant.pieces import holds_blocks, piece_size
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.report import TensorReport, error_document, total_errors
from entrenar_core.quant.source import RowSource
from entrenar_core.stages.kernels import load_codecs
from entrenar_core.stages.memory_taken import memory_taken, say_fewer_threads
from entrenar_core.stages.output_file import check_report, named_output, plain_files, save_report
from entrenar_core.stages.quantize_plan import QuantizePlan, opened_plan
from entrenar_core.threads import available_cores
from entrenar_core.train.memory import peak_memory_bytes


@dataclass(frozen=True)
class QuantizeResult:
    """What was written; `tensors` have errors where they were asked for."""

    summary: Quantized
    tensors: Sequence[TensorReport]

    def document(self) -> dict[str, object]:
        """For JSON: the whole file and each tensor."""
        summary = self.summary
        return {
            "path": str(summary.path),
            "source_bytes": summary.source_bytes,
            "n_bytes": summary.n_bytes,
            "bits_per_weight": summary.bits_per_weight,
            "types": dict(summary.types),
            "total": error_document(total_errors(self.tensors)),
            "tensors": [one.document() for one in self.tensors],
        }


def run_quantize(
    config: QuantizeConfig, reporter: Reporter, *, overwrite: bool = False, measures: bool = False
) -> QuantizeResult:
    """Write the model in the types that the config asks for.

    Args:
        config: source, types, output.
        reporter: hears of progress, of types that did not fit, and of the file.
        overwrite: whether a file that is there may be replaced.
        measures: whether the error of each tensor is measured.

    Raises:
        EntrenarError: see `quantize_plan.opened_plan` and `convert.convert`; nothing is left behind.
    """
    started = time.monotonic()
    path = named_output(config.output.path)
    _check_report(config, path, overwrite=overwrite)
    memory_taken(config.run.memory)
    with opened_plan(config, reporter, overwrite=overwrite) as plan:
        for message in plan.notices():
            reporter.emit(Notice("warning", message))
        errors = _write(plan, path, config, reporter, measures=measures)
        tensors = [TensorReport.of(one, sums) for one, sums in zip(plan.tensors, errors, strict=True)]
        result = QuantizeResult(_summary(plan, path, tensors, time.monotonic() - started), tensors)
    reporter.emit(Saved("model", path, plan.layout.total))
    if config.output.report is not None:
        reporter.emit(save_report(Path(config.output.report), result.document()))
    reporter.emit(result.summary)
    return result


def _load_codecs(plan: Sequence[PlannedTensor], reporter: Reporter, *, measures: bool) -> None:
    decoded = {one.info.type_name for one in plan if holds_blocks(one) or not one.is_copied}
    load_codecs(decoded, {one.type_name for one in plan if not one.is_copied}, reporter, measures=measures)


def _work_sizes(run: Running, plan: QuantizePlan, reporter: Reporter, *, measures: bool) -> tuple[int, int]:
    """Values of a piece, and threads, for the memory that is left."""
    threads = run.threads or available_cores()
    piece_values, workers = piece_size(plan.tensors, threads, run.memory - memory_taken(run.memory), measures=measures)
    say_fewer_threads(workers, threads, reporter)
    return piece_values, workers


def _write(
    plan: QuantizePlan, path: Path, config: QuantizeConfig, reporter: Reporter, *, measures: bool
) -> list[ErrorSums | None]:
    total = sum(one.info.n_bytes for one in plan.tensors)

    def watch(progress: Progress) -> None:
        name = plan.tensors[progress.tensors].name
        reporter.emit(Quantizing(progress.source_bytes, total, progress.tensors, len(plan.tensors), name))

    errors: list[ErrorSums | None] = []

    def fill(file: BinaryIO) -> None:
        with reserved(file.fileno(), plan.layout.total):
            _load_codecs(plan.tensors, reporter, measures=measures)
        piece_values, workers = _work_sizes(config.run, plan, reporter, measures=measures)
        conversion = Conversion(
            plan.tensors, plan.layout.tensors, piece_values, workers, plan.importance, measures=measures
        )
        with RowSource(plan.file) as source:
            codecs = _codecs(conversion, config.quantize, source)
            errors.extend(convert(replace(conversion, codecs=codecs), source, file.fileno(), watch))

    write_filled(path, plan.layout, fill)
    return errors


def _codecs(conversion: Conversion, section: Quantize, source: RowSource) -> dict[str, Codec]:
    if section.scale_group == "block":
        return {}
    from entrenar_core.quant.shared_scales import ShareOptions, shared_codecs

    options = ShareOptions(section.scale_group, section.range_percentile)
    return shared_codecs(
        conversion.plan, options, source, conversion.importance, conversion.piece_values, conversion.n_workers
    )


def _check_report(config: QuantizeConfig, output: Path, *, overwrite: bool) -> None:
    """See before the work that the report can be written after it."""
    if config.output.report is None:
        return
    path = Path(config.output.report)
    calibration = config.quantize.calibration
    read = plain_files(config.model.path, *((calibration.imatrix, calibration.data) if calibration else ()))
    check_report(path, [*read, *plain_files(str(output))], output, overwrite=overwrite)


def _summary(plan: QuantizePlan, path: Path, tensors: Sequence[TensorReport], seconds: float) -> Quantized:
    errors = total_errors(tensors)
    return Quantized(
        path=path,
        source_bytes=plan.source_bytes,
        n_bytes=plan.layout.total,
        bits_per_weight=plan.bits_per_weight,
        types=plan.types(),
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
        rmse=errors.rmse if errors.count else None,
        sqnr_db=errors.sqnr,
    )
