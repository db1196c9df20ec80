"""Writes a trained model as GGUF: every tensor and key of the base model, with the trained ones in their place.

Tensors that training did not touch are copied as packed bytes; the others are computed, encoded and written one at a
time, so folding an adapter into a large model never holds more than one of its matrices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from entrenar_core.errors import FormatError, TrainingError
from entrenar_core.events import Notice, Reporter, Saved
from entrenar_core.gguf.keys import GENERAL_FILE_TYPE, FileType
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import Chunk, TensorPlan, copy_tensor, encode_tensor, write_gguf
from entrenar_core.stages.changes import Values

Metadata = Iterable[tuple[str, MetadataValue]]

FLOAT_TYPES = frozenset(("F32", "F16", "BF16"))

NEW_TYPE = "F16"
"""What the matrices of a model without a base file become."""

CHANGED_BLOCKS = "Q8_0"
"""What a changed matrix of any block type becomes: rounded to coarser blocks a small change is lost, and Q8_0 keeps it
(measured, see docs/design-notes.md). Rows of every block type divide into its blocks of 32."""


@dataclass(frozen=True)
class _Target:
    """One tensor of the output: its values if they changed, else None for a copy."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    values: Values | None


def export_over_base(
    path: Path,
    base: GGUFFile,
    changed: Mapping[str, Values],
    wanted_type: str,
    provenance: Metadata,
    reporter: Reporter,
) -> None:
    """Write `base` with some tensors replaced.

    Args:
        path: of the new file.
        base: stays open until this returns.
        changed: new float32 values by tensor name, in numpy order.
        wanted_type: auto (each tensor's own type), f32, f16 or bf16.
        provenance: keys to add.
        reporter: hears of types that could not be kept, and of the file.

    Raises:
        FormatError: a value does not fit the type; the message names the tensor.
        TrainingError: a value is not finite.
        OutputError: the file cannot be written.
    """
    targets = [
        _Target(name, tuple(info.shape), info.type_name, changed.get(name)) for name, info in base.tensors.items()
    ]
    types = {target.name: output_type(target, wanted_type) for target in targets}
    _say_what_was_not_kept(targets, types, wanted_type, reporter)
    plans = [
        copy_tensor(base, target.name)
        if target.values is None and types[target.name] == target.source_type
        else _encoded(target, types[target.name], target.values or _loader(base, target.name), path)
        for target in targets
    ]
    _write(path, _with_file_type(base.metadata_entries(), targets, types), provenance, plans, reporter)


def export_new(
    path: Path,
    metadata: Metadata,
    weights: Mapping[str, np.ndarray],
    wanted_type: str,
    provenance: Metadata,
    reporter: Reporter,
) -> None:
    """Write a model that has no base file; auto means F16 for matrices. Norms and biases are F32. See above."""
    targets = [
        _Target(name, values.shape, NEW_TYPE if values.ndim > 1 else "F32", lambda values=values: values)  # type: ignore[misc]
        for name, values in weights.items()
    ]
    types = {target.name: output_type(target, wanted_type) for target in targets}
    plans = [_encoded(target, types[target.name], target.values, path) for target in targets if target.values]
    _write(path, _with_file_type(list(metadata), targets, types), provenance, plans, reporter)


def planned_types(
    sources: Mapping[str, tuple[tuple[int, ...], str]], changed: Collection[str], wanted_type: str
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor that will be written.

    Args:
        sources: shape and type of each tensor of the base; `NEW_TYPE` or F32 for a new model.
        changed: those that training changes.
        wanted_type: see `export_over_base`.
    """
    targets = [
        _Target(name, shape, type_name, _nothing if name in changed else None)
        for name, (shape, type_name) in sources.items()
    ]
    return {target.name: (target.shape, output_type(target, wanted_type)) for target in targets}


def _nothing() -> np.ndarray:
    return np.empty(0, np.float32)


def _loader(base: GGUFFile, name: str) -> Values:
    return lambda: base.load(name)


def output_type(target: _Target, wanted: str) -> str:
    """The GGML type a tensor is written in: vectors stay as they are, matrices follow `wanted`."""
    is_float = target.source_type in FLOAT_TYPES
    if len(target.shape) == 1:
        return target.source_type if is_float else "F32"
    if wanted != "auto":
        return wanted.upper()
    return target.source_type if is_float or target.values is None else CHANGED_BLOCKS


def _say_what_was_not_kept(
    targets: Sequence[_Target], types: Mapping[str, str], wanted: str, reporter: Reporter
) -> None:
    lost = [target for target in targets if wanted == "auto" and types[target.name] != target.source_type]
    if not lost:
        return
    names = ", ".join(sorted({target.source_type for target in lost}))
    message = f"{len(lost)} changed tensors of type {names} are written as {CHANGED_BLOCKS}"
    reporter.emit(Notice("warning", f"{message}: rounded to their own type again, small changes would be lost"))


def _encoded(target: _Target, type_name: str, values: Values, path: Path) -> TensorPlan:
    def produce() -> Iterator[Chunk]:
        computed = values()
        if not np.isfinite(computed).all():
            raise TrainingError("the values are not finite; nothing is written", where=f"{path}: tensor {target.name}")
        try:
            yield from encode_tensor(target.name, computed, type_name).produce()
        except FormatError as error:
            raise FormatError(
                error.message, where=f"{path}: tensor {target.name}", hint="set output.type to f32 or bf16"
            ) from error

    return TensorPlan(target.name, target.shape, type_name, produce)


def _with_file_type(
    entries: Sequence[tuple[str, MetadataValue]], targets: Sequence[_Target], types: Mapping[str, str]
) -> list[tuple[str, MetadataValue]]:
    """The metadata, saying the type of the matrices if they all share one."""
    matrix_types = {types[target.name] for target in targets if len(target.shape) > 1}
    if len(matrix_types) != 1 or not matrix_types <= FileType.__members__.keys():
        return list(entries)
    value = MetadataValue.uint32(FileType[matrix_types.pop()])
    if any(key == GENERAL_FILE_TYPE for key, _ in entries):
        return [(key, value if key == GENERAL_FILE_TYPE else old) for key, old in entries]
    return [*entries, (GENERAL_FILE_TYPE, value)]


def _write(
    path: Path,
    metadata: Sequence[tuple[str, MetadataValue]],
    provenance: Metadata,
    plans: Sequence[TensorPlan],
    reporter: Reporter,
) -> None:
    added = dict(provenance)
    kept = [(key, value) for key, value in metadata if key not in added]
    size = write_gguf(path, [*kept, *added.items()], plans)
    reporter.emit(Saved("model", path, size))
