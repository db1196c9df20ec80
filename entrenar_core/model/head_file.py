"""Heads as GGUF files of their own, beside the model or adapter they were trained with: ``head.gguf``.

llama.cpp has no file for a head alone; the tensors have the names that it gives them inside a model. Values are F32,
and what the answers mean (classes, or the scale of the numbers) is in the metadata.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from entrenar_core.data.tasks import Task
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.keys import GENERAL_ARCHITECTURE, GENERAL_TYPE
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HEAD, HeadSpec, SequenceModel, attach_head

HEAD_FILE = "head.gguf"
"""Its name in the folder of a run."""

_TYPE = "head"
_TASK, _CLASSES, _TEXT, _TARGET, _MEAN, _STD = (
    f"head.{name}" for name in ("task", "classes", "text_column", "target_column", "mean", "std")
)
_WEIGHT, _BIAS = f"{HEAD}.weight", f"{HEAD}.bias"


def write_head(
    path: str | os.PathLike[str], model: SequenceModel, provenance: Iterable[tuple[str, MetadataValue]] = ()
) -> int:
    """Write the head of a model; returns the size of the file in bytes.

    Args:
        path: of the new file.
        model: its backbone's architecture is noted, for a head fits no other.
        provenance: more metadata.

    Raises:
        OutputError: the file cannot be written.
    """
    weight, bias = (np.asarray(values, np.float32) for values in model.head_values())
    metadata = [
        (GENERAL_TYPE, MetadataValue.string(_TYPE)),
        (GENERAL_ARCHITECTURE, MetadataValue.string(model.backbone.spec.architecture)),
        *_spec_entries(model.spec),
        *provenance,
    ]
    return write_gguf(path, metadata, [encode_tensor(_WEIGHT, weight, "F32"), encode_tensor(_BIAS, bias, "F32")])


def load_head(path: str | os.PathLike[str], backbone: LanguageModel) -> SequenceModel:
    """The model with the head in a GGUF file.

    Raises:
        FormatError: not a head, or one that lacks something.
        ModelError: made for another architecture or width.
    """
    where = str(path)
    with GGUFFile.open(path) as file:
        spec = _read_spec(file.metadata, where)
        architecture = file.metadata.get(GENERAL_ARCHITECTURE)
        if architecture != backbone.spec.architecture:
            raise ModelError(f"the head is for a {architecture} model, not {backbone.spec.architecture}", where=where)
        for name in (_WEIGHT, _BIAS):
            if name not in file.tensors:
                raise FormatError(f"the tensor {name} is missing", where=where)
        weight, bias = file.load(_WEIGHT), file.load(_BIAS)
    try:
        return attach_head(backbone, spec, weight, bias)
    except ModelError as error:
        raise ModelError(error.message, where=where, hint="was it trained with this model?") from error


def read_head_spec(path: str | os.PathLike[str]) -> HeadSpec:
    """What a head answers, without its tensors.

    Raises:
        FormatError: not a head, or one that lacks something.
    """
    with GGUFFile.open(path) as file:
        return _read_spec(file.metadata, str(path))


def _spec_entries(spec: HeadSpec) -> list[tuple[str, MetadataValue]]:
    entries = [
        (_TASK, MetadataValue.string(spec.task.value)),
        (_TEXT, MetadataValue.string(spec.text_column)),
        (_TARGET, MetadataValue.string(spec.target_column)),
    ]
    if spec.is_classification:
        return [*entries, (_CLASSES, MetadataValue.array(ValueType.STRING, spec.classes))]
    return [*entries, (_MEAN, MetadataValue.float64(spec.mean)), (_STD, MetadataValue.float64(spec.std))]


def _read_spec(metadata: Mapping[str, object], where: str) -> HeadSpec:
    if metadata.get(GENERAL_TYPE) != _TYPE:
        raise FormatError(
            "this is not the head of a classification or regression",
            where=where,
            hint="a run with data.task: classification or regression writes head.gguf",
        )
    task = _entry(metadata, _TASK, str, where)
    if task not in (Task.CLASSIFICATION, Task.REGRESSION):
        raise FormatError(f"{_TASK} is {task!r}, not classification or regression", where=where)
    columns = _entry(metadata, _TEXT, str, where), _entry(metadata, _TARGET, str, where)
    try:
        if task == Task.CLASSIFICATION:
            classes = _entry(metadata, _CLASSES, list, where)
            return HeadSpec(Task.CLASSIFICATION, tuple(map(str, classes)), *columns)
        mean, std = _entry(metadata, _MEAN, float, where), _entry(metadata, _STD, float, where)
        return HeadSpec(Task.REGRESSION, (), *columns, mean=mean, std=std)
    except ModelError as error:
        raise FormatError(error.message, where=where) from error


def _entry(metadata: Mapping[str, object], key: str, kind: type, where: str) -> Any:
    value = metadata.get(key)
    if not isinstance(value, kind):
        raise FormatError(f"the metadata key {key} is missing or of the wrong type", where=where)
    return value
