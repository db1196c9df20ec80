"""The importance of each column of a model's matrices: measured on data, or read from a file.

The model runs from its mapped file: matrices are decoded tile by tile, so besides vectors no weights are copied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrenar_core.backend.select import Device
from entrenar_core.codecs.base import Floats
from entrenar_core.config.data import Data, Source
from entrenar_core.config.key_names import keys_named
from entrenar_core.config.quantize import Calibration
from entrenar_core.config.roles import ROLE_NAMES, SHORT_ROLES
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.opening import OpenedSource, open_sources
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.events import Notice, Progress, Reporter, Saved
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_mapped, read_spec
from entrenar_core.quant.calibrate import Calibrator, calibrate, importance_matrix
from entrenar_core.quant.calibrate_rows import TokenRows, token_rows
from entrenar_core.quant.imatrix import ImportanceMatrix, Shaped, importance_of_tensors, read_imatrix, write_imatrix
from entrenar_core.quant.mixes import quantizes
from entrenar_core.quant.observers import statistic_of
from entrenar_core.quant.plan import check_quantizable
from entrenar_core.stages.dataset import template_of, templated_tasks
from entrenar_core.stages.device import calibration_work, measuring_wish, open_backend
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.stages.output_file import check_output, plain_files
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer

ModelFile = str | os.PathLike[str] | GGUFFile
_KEYS_OF_DATA = {
    "under data": "under quantize.calibration",
    **{f"data.{key}": f"quantize.calibration.{key}" for key in ("task", "columns", "chat_template")},
    **{f"data.columns.{role}": f"quantize.calibration.columns.{role}" for role in ROLE_NAMES},
    **{f"data.{role}": f"quantize.calibration.columns.{role}" for role in SHORT_ROLES},
}
"""Where a calibration's own data are described."""

_FILE_HINT = "measure it with llama-imatrix, and give its file: --imatrix FILE, or quantize.calibration.imatrix"


@dataclass(frozen=True)
class ModelText:
    """What tells how a model reads text. name: for messages. context: the most tokens that it was made for."""

    name: str
    tokenizer: Tokenizer
    metadata: Mapping[str, object]
    context: int


def importance_for(
    model: ModelFile,
    calibration: Calibration,
    *,
    threads: int | None = None,
    reporter: Reporter,
    data: Data | None = None,
    device: Device = "auto",
) -> dict[str, Floats]:
    """The importance of the matrices of a model.

    Args:
        model: a GGUF file; one that is open stays open.
        calibration: what it is measured on and how, or the file that it is in.
        threads: CPU threads; None takes every core.
        reporter: hears the progress in rows, and what was left out.
        data: of a training run: what is measured on if `calibration` names no data, and how chats are written.
        device: what the model runs on.

    Returns:
        By name of the matrix, float32 [in]; from a file of a model with experts also [matrices, in]. Matrices that are
        missing (embeddings, and mostly the output) have no importance: all their columns count alike.

    Raises:
        ConfigError: there are neither data nor a file, or a row is longer than the model's context.
        FormatError: the file cannot be used, or belongs to another model.
        ModelError: the model cannot be run here; a file of its importance can still be given.
        DataError: the data cannot be read, or have no tokens.
    """
    if not isinstance(model, GGUFFile):
        with GGUFFile.open(model) as file:
            return importance_for(file, calibration, threads=threads, reporter=reporter, data=data, device=device)
    if calibration.imatrix is not None:
        return importance_of(read_imatrix(calibration.imatrix), model.tensors, calibration.imatrix, reporter)
    return measure(model, calibration, threads=threads, reporter=reporter, data=data, device=device).importance()


def run_calibrate(
    model: Path,
    output: Path,
    calibration: Calibration,
    *,
    with_output: bool,
    threads: int | None,
    reporter: Reporter,
    overwrite: bool = False,
    device: Device = "auto",
) -> None:
    """Measure a model on data and write an importance matrix: the command ``entrenar calibrate``.

    Args:
        model: a GGUF file.
        output: the file to write.
        calibration: with data, by the method imatrix.
        with_output: measure the output matrix too.
        overwrite: whether a file that is there may be replaced.
        device: what the model runs on.

    Raises:
        ConfigError, FormatError, ModelError, DataError: see `importance_for`; or the file is no model.
        OutputError: the file cannot be written where it should be; that is seen before anything is measured.
    """
    with GGUFFile.open(model) as file:
        check_quantizable(file)
        check_output(output, [*file.paths, *plain_files(calibration.data)], overwrite=overwrite)
        found = measure(file, calibration, threads=threads, reporter=reporter, with_output=with_output, device=device)
        chunk_size = row_length(calibration, read_spec(file).context_length, str(model))
    matrix = importance_matrix(found, (str(calibration.data),), chunk_size)
    n_bytes = write_imatrix(output, matrix)
    reporter.emit(Saved("imatrix", output, n_bytes))


def measure(
    file: GGUFFile,
    calibration: Calibration,
    *,
    threads: int | None = None,
    reporter: Reporter,
    data: Data | None = None,
    with_output: bool = False,
    device: Device = "auto",
) -> Calibrator:
    """Run the model of a file over rows of tokens; see `importance_for`."""
    name = str(file.paths[0])
    try:
        spec = read_spec(file)
    except ModelError as error:
        hint = _FILE_HINT if error.hint is None else f"{error.hint}; or {_FILE_HINT}"
        raise ModelError(error.message, where=error.where, hint=hint) from error
    text = ModelText(name, tokenizer_from_metadata(file.metadata, name), file.metadata, spec.context_length)
    rows = calibration_rows(text, calibration, data, reporter)
    work = calibration_work(file, sum(batch.n_tokens for batch in rows.batches))
    with closing(open_backend(measuring_wish(device, threads), work, reporter)) as backend:
        model = load_mapped(file, backend)
        try:
            return measure_model(model, rows, calibration, reporter, with_output=with_output)
        except ModelError as error:
            where = name if error.where is None else f"{name}: {error.where}"
            raise ModelError(error.message, where=where, hint=error.hint) from error


def measure_model(
    model: LanguageModel, rows: TokenRows, calibration: Calibration, reporter: Reporter, *, with_output: bool = False
) -> Calibrator:
    """Run a model that is loaded, maybe with adapters, over rows of tokens."""
    with compiling_said("the model", reporter):
        return calibrate(
            model,
            rows.batches,
            lambda n_columns: statistic_of(calibration, n_columns),
            with_output=with_output,
            after_rows=lambda done: reporter.emit(Progress("calibrate", done, rows.count)),
        )


def calibration_rows(text: ModelText, calibration: Calibration, data: Data | None, reporter: Reporter) -> TokenRows:
    """The rows of tokens that a `calibration` section asks for; see `importance_for`.

    Raises:
        ConfigError, DataError, TokenizerError: see there.
    """
    with keys_named({} if calibration.data is None else _KEYS_OF_DATA):
        return _calibration_rows(text, calibration, data, reporter)


def _calibration_rows(text: ModelText, calibration: Calibration, data: Data | None, reporter: Reporter) -> TokenRows:
    section, sources = _sources(calibration, data)
    metadata, tokenizer = text.metadata, text.tokenizer
    templated = templated_tasks(section.chat_template, metadata)
    fmt = ExampleFormat(
        seq_len=row_length(calibration, text.context, text.name),
        separator=section.separator,
        train_on_prompt=True,
        add_bos=section.add_bos,
        add_eos=section.add_eos and tokenizer.eos_id is not None,
    )
    template = template_of(section.chat_template, templated, sources, tokenizer, metadata, text.name)
    found = token_rows(sources, Encoding(tokenizer, fmt, template, templated), calibration.rows, tokenizer.pad_id or 0)
    if found.refused:
        count = sum(found.refused.values())
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.refused.items())
        where = ", ".join(one.source.name for one in sources)
        reporter.emit(Notice("warning", f"{where}: {count} of {found.seen} rows refused: {reasons}"))
    return found


def _sources(calibration: Calibration, data: Data | None) -> tuple[Data, tuple[OpenedSource, ...]]:
    """The `data` section that holds for what is read, and what is read."""
    if calibration.data is None:
        if data is None:
            raise ConfigError(
                "there is nothing to calibrate on",
                where="quantize.calibration",
                hint="set quantize.calibration.data or quantize.calibration.imatrix",
            )
        return data, open_sources(data, data.train)
    entry = Source(path=calibration.data, task=calibration.task, columns=calibration.columns)
    if data is None:
        section = Data(train=(entry,), chat_template=calibration.chat_template)
        return section, open_sources(section, section.train)
    unnamed: dict[str, Any] = dict.fromkeys(("task", "columns", "text", "prompt", "completion"))
    template = calibration.chat_template or data.chat_template
    section = data.model_copy(update={"train": (entry,), **unnamed, "chat_template": template})
    return section, open_sources(section, section.train, like=open_sources(data, data.train))


def row_length(calibration: Calibration, context: int, model: str) -> int:
    """Tokens of a row: as asked for, or the default cut to the context of the model.

    Raises:
        ConfigError: more are asked for than the model was made for.
    """
    if calibration.seq_len <= context:
        return calibration.seq_len
    if "seq_len" in calibration.model_fields_set:
        raise ConfigError(
            f"quantize.calibration.seq_len is {calibration.seq_len}, but {model} was made for {context} tokens",
            hint=f"set it to {context} or less",
        )
    return context


def importance_of(
    matrix: ImportanceMatrix, tensors: Mapping[str, Shaped], path: str, reporter: Reporter
) -> dict[str, Floats]:
    """The importance in a file at `path` for a model with these tensors; says which of its matrices were not measured.

    Raises:
        FormatError: it belongs to another model.
    """
    found = importance_of_tensors(matrix, tensors, path)
    for name, entry in matrix.entries.items():
        if entry.unmeasured:
            was, whose = ("was", "its") if entry.unmeasured == 1 else ("were", "their")
            message = f"{name}: {entry.unmeasured} of {len(entry.counts)} matrices {was} never measured"
            reporter.emit(Notice("warning", f"{path}: {message}; {whose} columns count alike"))
    blocks = [name for name, one in tensors.items() if name.startswith("blk.") and quantizes(name, one.shape)]
    if missing := [name for name in blocks if name not in found]:
        message = f"nothing on {len(missing)} of {len(blocks)} matrices ({missing[0]} ...)"
        reporter.emit(Notice("warning", f"{path}: {message}; their columns count alike"))
    return found
