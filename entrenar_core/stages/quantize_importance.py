"""The importance of columns that `entrenar quantize` weighs errors by, and what the output says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from entrenar_core.codecs.base import Floats
from entrenar_core.config.quantize import Calibration
from entrenar_core.events import Reporter
from entrenar_core.gguf import keys
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue


@dataclass(frozen=True)
class KnownImportance:
    """By tensor name, float32 [columns] or [matrices, columns]; and the keys that llama-quantize writes about it."""

    of_tensors: Mapping[str, Floats] = field(default_factory=dict)
    keys: Mapping[str, MetadataValue] = field(default_factory=dict)


def known_importance(
    file: GGUFFile, calibration: Calibration | None, *, measures: bool, threads: int | None, reporter: Reporter
) -> KnownImportance:
    """What the section asks for: nothing, a file's, or what is measured on data.

    Args:
        file: the model.
        calibration: the section.
        measures: whether data are gone through; without it only the keys are right, and the sizes of their values.
        threads: to measure with.
        reporter: hears of the progress.

    Raises:
        EntrenarError: see `calibrate.importance_for` and `imatrix.read_imatrix`.
    """
    if calibration is None:
        return KnownImportance()
    if calibration.imatrix is not None:
        return _of_file(calibration.imatrix, file, reporter)
    found: Mapping[str, Floats] = {}
    if measures:
        from entrenar_core.stages.calibrate import importance_for  # brings the engine with it

        found = importance_for(file, calibration, threads=threads, reporter=reporter)
    elif calibration.data is not None:
        from entrenar_core.data.files import find_files

        find_files(calibration.data)  # what is missing is said in a dry run too
    return KnownImportance(
        found,
        {
            keys.QUANTIZE_IMATRIX_DATASET: MetadataValue.string(str(calibration.data)),
            keys.QUANTIZE_IMATRIX_ENTRIES: MetadataValue.uint32(len(found)),
        },
    )


def _of_file(path: str, model: GGUFFile, reporter: Reporter) -> KnownImportance:
    from entrenar_core.quant.imatrix import read_imatrix
    from entrenar_core.stages.calibrate import importance_of

    matrix = read_imatrix(path)
    return KnownImportance(
        importance_of(matrix, model.tensors, path, reporter),
        {
            keys.QUANTIZE_IMATRIX_FILE: MetadataValue.string(path),
            keys.QUANTIZE_IMATRIX_DATASET: MetadataValue.string(next(iter(matrix.datasets), "")),
            keys.QUANTIZE_IMATRIX_ENTRIES: MetadataValue.uint32(len(matrix.entries)),
            keys.QUANTIZE_IMATRIX_CHUNKS: MetadataValue.uint32(matrix.chunk_count),
        },
    )
