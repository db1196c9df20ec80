"""`entrenar predict`: what a trained head says of new data, as parquet with a column for each answer.

Rows are read a window at a time, sorted by length into batches inside it, and written in their own order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.autograd.tape import no_grad
from entrenar_core.backend.base import Backend
from entrenar_core.backend.select import Device, DeviceWish
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.examples import Examples
from entrenar_core.data.pack import fill, one_per_row
from entrenar_core.data.predictions import PredictionInput, prediction_writer
from entrenar_core.data.row_encoders import REFUSED_NULL, EncodedRow, Frame, labelled_row
from entrenar_core.errors import ModelError, OutputError
from entrenar_core.events import Predicted, Progress, Reporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.heads import HeadSpec, SequenceModel
from entrenar_core.model.load import read_spec
from entrenar_core.stages.dataset import sequence_length
from entrenar_core.stages.device import open_backend
from entrenar_core.stages.head_run import HeadRun, open_head_run
from entrenar_core.stages.judge import Judge
from entrenar_core.stages.text_work import reading_work
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer

PREDICTION, PROBABILITY = "prediction", "probability"
"""The column of the answer, that of its probability, and (with ``_<class>``) those of all classes' probabilities."""


@dataclass(frozen=True)
class PredictionSettings:
    """batch_size: texts of one forward pass; None: as in training. columns: those of the data that are kept; None: all.
    text: the column to read; None: that of the training data. model: takes the place of the base model's path."""

    batch_size: int | None = None
    columns: Sequence[str] | None = None
    text: str | None = None
    model: Path | None = None
    threads: int | None = None
    device: Device = "auto"


def run_predict(run: Path, data: str, output: Path, *, settings: PredictionSettings, reporter: Reporter) -> Predicted:
    """Predict on data with the head of a run, and write them with the predictions.

    Args:
        run: the folder that the training has written.
        data: a file, a folder or a glob.
        output: the parquet file.
        settings: see there.
        reporter: hears of progress, of labels that the head does not know, and at the end what is returned.

    Raises:
        EntrenarError: the run, the data or the output cannot be used; nothing is written then.
    """
    started = time.perf_counter()
    trained = open_head_run(run, settings.model)
    fields = _added_columns(trained.head)
    found = PredictionInput.open(
        data,
        text=settings.text or trained.head.text_column,
        target=trained.head.target_column,
        kept=settings.columns,
        added=list(fields),
    )
    _check_output(output, [*found.source.files, *trained.files])
    judge = Judge(trained.head)
    with _opened_predictor(trained, data, settings, reporter) as predictor:
        with prediction_writer(output, found.schema, fields) as writer:
            for window in found.windows():
                answered, outputs = predictor.outputs(window.texts)
                if window.targets is not None:
                    judge.add(window.targets, answered, outputs)
                writer.add(window.kept, answered, _columns(trained.head, answered, outputs))
                reporter.emit(Progress("predicting", predictor.rows, found.source.n_rows))
        for notice in judge.notices():
            reporter.emit(notice)
        event = Predicted(
            path=output,
            rows=predictor.rows,
            without_text=predictor.without_text,
            truncated=predictor.truncated,
            judged=judge.count,
            metrics=judge.metrics(),
            seconds=time.perf_counter() - started,
        )
    reporter.emit(event)
    return event


def _check_output(path: Path, inputs: Sequence[Path]) -> None:
    if path.exists() and any(path.samefile(one) for one in inputs if one.exists()):
        raise OutputError(
            "this file is read, and would be written over", where=str(path), hint="choose another --output"
        )
    if path.suffix.lower() != ".parquet":
        raise OutputError("predictions are written as parquet", where=str(path), hint="name a .parquet file")
    if not path.parent.is_dir():
        raise OutputError("its folder does not exist", where=str(path), hint=f"create the folder {path.parent} first")


@contextmanager
def _opened_predictor(run: HeadRun, data: str, settings: PredictionSettings, reporter: Reporter) -> Iterator[Predictor]:
    with GGUFFile.open(run.model) as file:
        wish = DeviceWish(settings.device, settings.threads)
        backend = open_backend(wish, reading_work(file, data), reporter)
        try:
            yield predictor_of(run, file, backend, settings.batch_size)
        finally:
            backend.close()


def predictor_of(run: HeadRun, file: GGUFFile, backend: Backend, batch_size: int | None) -> Predictor:
    """What answers with the head of a run.

    Args:
        file: `run.model`, opened.
        backend: where it computes.
        batch_size: texts of one forward pass; None: as in training.

    Raises:
        FormatError, ModelError: see `HeadRun.load`.
        ConfigError, DataError: the model cannot read texts as the config of the run says.
    """
    spec, tokenizer = read_spec(file), tokenizer_from_metadata(file.metadata, str(run.model))
    frame = Frame.of(tokenizer, run.config.data.add_bos, run.config.data.add_eos, str(run.model))
    model = run.load(file, backend)
    seq_len = sequence_length(run.config, spec.context_length, str(run.model))
    return Predictor(model, tokenizer, frame, seq_len, batch_size or run.config.data.batch_size)


@dataclass
class Predictor:
    """Counts what becomes of the rows. `truncated` are those that were cut to `seq_len` tokens, as in training."""

    model: SequenceModel
    tokenizer: Tokenizer
    frame: Frame
    seq_len: int
    batch_size: int
    rows: int = 0
    without_text: int = 0
    truncated: int = 0

    def outputs(self, texts: Sequence[str | None]) -> tuple[npt.NDArray[np.bool_], np.ndarray]:
        """Which of n rows have an answer, bool [n], and the outputs of the head for those, [answered, C].

        Raises:
            ModelError: the model computes numbers that are not finite.
        """
        encoded = iter(self.tokenizer.encode_batch([text for text in texts if text is not None]))
        rows = [REFUSED_NULL if text is None else labelled_row(self.frame, next(encoded)) for text in texts]
        builder = ExampleBuilder(self.seq_len, "truncate")
        builder.add(rows, "truncate")
        examples = builder.finish()
        self.rows += examples.stats.rows
        self.without_text += sum(examples.stats.refused.values())
        self.truncated += examples.stats.overlong_rows
        found = self._outputs_of(examples)
        if not np.isfinite(found).all():
            raise ModelError("the model computes numbers that are not finite", hint="its weights are damaged")
        return np.array([isinstance(row, EncodedRow) for row in rows], dtype=np.bool_), found

    def _outputs_of(self, examples: Examples) -> np.ndarray:
        found = np.empty((len(examples), self.model.spec.n_outputs))
        order = np.argsort(-examples.lengths, kind="stable")
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            pad_id = self.tokenizer.pad_id or 0
            batch = fill(examples, one_per_row(chosen), seq_len=self.seq_len, pad_id=pad_id)
            with no_grad():
                found[chosen] = self.model.outputs(batch).numpy()
        return found


def _added_columns(head: HeadSpec) -> dict[str, type]:
    """Names of the columns that are added, and whether they hold text or numbers."""
    if not head.is_classification:
        return {PREDICTION: float}
    return {PREDICTION: str, PROBABILITY: float, **{f"{PROBABILITY}_{name}": float for name in head.classes}}


def _columns(head: HeadSpec, answered: npt.NDArray[np.bool_], outputs: np.ndarray) -> Mapping[str, npt.NDArray[Any]]:
    """The columns [n] that are added, from the outputs [answered, C]; rows without an answer hold anything."""
    if not head.is_classification:
        return {PREDICTION: _spread(answered, head.numbers(outputs))}
    probabilities = head.probabilities(outputs)
    names = np.array(head.classes, dtype=object)
    columns = {
        PREDICTION: _spread(answered, names[outputs.argmax(axis=1)]),
        PROBABILITY: _spread(answered, probabilities.max(axis=1, initial=0.0)),
    }
    for index, name in enumerate(head.classes):
        columns[f"{PROBABILITY}_{name}"] = _spread(answered, probabilities[:, index])
    return columns


def _spread(answered: npt.NDArray[np.bool_], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found = np.zeros(len(answered), dtype=values.dtype)
    found[answered] = values
    return found
