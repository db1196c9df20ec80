"""What a training run weighs the errors of its result by: `quantize.calibration` with stage output or qat.

Data and files are read before the first step, so that what is wrong with them is said then. For stage output the
trained model is measured when it is written. For qat the model that the run starts from is: its weights are rounded
with that importance from then on, and written with the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.base import Floats
from entrenar_core.config.quantize import Calibration
from entrenar_core.config.root import Config
from entrenar_core.events import Reporter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.quant.calibrate_rows import TokenRows
from entrenar_core.quant.imatrix import Shaped, read_imatrix
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.calibrate import ModelText, calibration_rows, importance_of, measure_model


@dataclass(frozen=True)
class RunCalibration:
    """A `calibration` section with its data. rows: to measure on; None where the importance is `known` from a file."""

    section: Calibration
    rows: TokenRows | None
    known: Mapping[str, Floats]
    reporter: Reporter

    def importance(self, model: LanguageModel) -> Mapping[str, Floats]:
        """The importance of the columns of a model's matrices, float32 [in], by name; measured now, or known.

        Raises:
            ModelError: an input of a matrix is not finite.
        """
        if self.rows is None:
            return self.known
        return measure_model(model, self.rows, self.section, self.reporter).importance()

    def digest(self) -> str:
        """A hex hash of the tokens or the importance; equal exactly when two runs weigh errors alike."""
        content = hashlib.blake2b(digest_size=16)
        for batch in () if self.rows is None else self.rows.batches:
            for part in (batch.tokens, batch.starts, batch.labels):
                content.update(part.tobytes())
        for name, importance in sorted(self.known.items()):
            content.update(name.encode() + importance.tobytes())
        return content.hexdigest()


def open_calibration(config: Config, base: BaseModel, reporter: Reporter) -> RunCalibration | None:
    """Read what a run calibrates on; None where it does not.

    Raises:
        ConfigError, DataError, FormatError, TokenizerError: see `calibrate.importance_for`.
    """
    quantize = config.quantize
    if quantize is None or quantize.calibration is None:
        return None
    section = quantize.calibration
    if section.imatrix is not None:
        known = importance_of(read_imatrix(section.imatrix), _tensors(base), section.imatrix, reporter)
        return RunCalibration(section, None, known, reporter)
    text = ModelText(base.name, base.tokenizer, base.plain_metadata(), base.spec.context_length)
    return RunCalibration(section, calibration_rows(text, section, config.data, reporter), {}, reporter)


def _tensors(base: BaseModel) -> Mapping[str, Shaped]:
    if base.file is not None:
        return base.file.tensors
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in base.shapes().items()}
