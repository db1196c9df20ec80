"""Safetensors files: where each tensor lies. What they say of themselves is checked before a byte is used.

A file is eight bytes with the length of a JSON header, the header, and the data: little-endian, row by row. The
safetensors library gives arrays; here rows are read in pieces by several threads, so only places are of interest.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.hugging_face.json_object import parse_object, read_json

FLOAT_TYPES: Mapping[str, str] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
"""Types of safetensors, and the GGML types that are the same."""

INDEX_SUFFIX = ".index.json"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_TENSORS = 1 << 20
_METADATA = "__metadata__"
_DAMAGED = "the file is damaged: copy or download it again"


@dataclass(frozen=True)
class SafetensorsFiles:
    """One or several files. `tensors`: by name; the shard is the number of the file, offsets count from its start."""

    paths: Sequence[Path]
    tensors: Mapping[str, TensorInfo]

    def is_big_endian(self, shard: int) -> bool:
        """Never."""
        del shard
        return False


def open_safetensors(folder: Path, stem: str = "model") -> SafetensorsFiles:
    """The tensors of ``{stem}.safetensors`` or of the files that ``{stem}.safetensors.index.json`` lists.

    Raises:
        FormatError: there are none, or one is damaged, or they do not fit together.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors{INDEX_SUFFIX}"
    if index.is_file():
        return _indexed(folder, index)
    if not single.is_file():
        raise _no_weights(folder, single.name)
    return SafetensorsFiles([single], {info.name: info for info in read_header(single, 0)})


def _indexed(folder: Path, index: Path) -> SafetensorsFiles:
    places = _places(index)
    paths = [folder / file for file in sorted(set(places.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FormatError(
            f"missing file: {', '.join(missing[:3])}", where=str(index), hint=f"the model has {len(paths)} files"
        )
    found = [info for shard, path in enumerate(paths) for info in read_header(path, shard)]
    _check_places(places, found, paths)
    return SafetensorsFiles(paths, {info.name: info for info in found})


def _check_places(places: Mapping[str, str], found: Sequence[TensorInfo], paths: Sequence[Path]) -> None:
    """Every tensor is in the file that the index says, and nowhere else."""
    for info in found:
        if places.get(info.name) != paths[info.shard].name:
            said = f"the index says it is in {places[info.name]}" if info.name in places else "the index lacks it"
            raise FormatError(said, where=f"{paths[info.shard]}: tensor {info.name}", hint=_DAMAGED)
    lost = sorted(places.keys() - {info.name for info in found})
    if lost:
        raise FormatError(
            f"the tensor {lost[0]} is missing", where=str(paths[0].with_name(places[lost[0]])), hint=_DAMAGED
        )


def _places(index: Path) -> Mapping[str, str]:
    """File by tensor; only names of files that lie beside the index."""
    places = read_json(index).object("weight_map")
    if not places:
        raise FormatError("the index names no tensors", where=str(index), hint=_DAMAGED)
    for name, file in places.items():
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(".safetensors"):
            raise FormatError(
                f"{name} is said to be in {file!r}, which is no safetensors file of this folder", where=str(index)
            )
    return places


def _no_weights(folder: Path, expected: str) -> FormatError:
    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return FormatError(
            "the weights are pickles, which can run any code and are never opened",
            where=str(folder),
            hint="save the model as safetensors: save_pretrained(..., safe_serialization=True) in transformers",
        )
    others = [name for name in names if name.endswith(".safetensors")]
    hint = f"it has {', '.join(others[:3])}: rename it" if others else "the folder is incomplete"
    return FormatError(f"there is no {expected}", where=str(folder), hint=hint)


def load_tensor(files: SafetensorsFiles, name: str) -> npt.NDArray[np.float32]:
    """All values of a tensor, for small ones. Raises FormatError when they cannot be read."""
    info = files.tensors[name]
    path = files.paths[info.shard]
    try:
        with path.open("rb") as file:
            file.seek(info.offset)
            content = file.read(info.n_bytes)
    except OSError as error:
        raise FormatError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    if len(content) != info.n_bytes:
        raise FormatError("the file has become shorter", where=f"{path}: tensor {name}")
    raw = np.frombuffer(content, np.uint8).reshape(info.raw_shape)
    return codec_for(info.type_name).decode(raw).reshape(info.shape)


def read_header(path: Path, shard: int) -> list[TensorInfo]:
    """The tensors of one file, checked: types that are floats, sizes that fit, no overlaps, nothing past the end.

    Raises:
        FormatError: names the file, and the tensor that is wrong.
    """
    header, start, size = _header(path)
    if len(header) > _MAX_TENSORS:
        raise FormatError(f"{len(header)} tensors are too many", where=str(path), hint=_DAMAGED)
    infos = [
        _tensor(name, entry, f"{path}: tensor {name[:100]}", (start, size - start, shard))
        for name, entry in header.items()
        if name != _METADATA
    ]
    for before, after in pairwise(sorted(infos, key=lambda info: info.offset)):
        if before.offset + before.n_bytes > after.offset:
            raise FormatError(
                f"its data overlaps that of {after.name}", where=f"{path}: tensor {before.name}", hint=_DAMAGED
            )
    return infos


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data begins, and the size of the file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            first = file.read(8)
            if len(first) < 8:
                raise FormatError("this is no safetensors file", where=str(path), hint=_DAMAGED)
            length = struct.unpack("<Q", first)[0]
            if length > min(size - 8, _MAX_HEADER_BYTES):
                raise FormatError(f"a header of {length} bytes cannot be", where=str(path), hint=_DAMAGED)
            content = file.read(length)
    except OSError as error:
        raise FormatError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    return parse_object(content, str(path)), 8 + length, size


def _tensor(name: str, entry: Any, where: str, place: tuple[int, int, int]) -> TensorInfo:
    """`place`: start and size of the data, and the number of the file."""
    start, n_data, shard = place
    values = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = values.get("dtype"), values.get("shape"), values.get("data_offsets")
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise FormatError("the header does not describe it", where=where, hint=_DAMAGED)
    if dtype not in FLOAT_TYPES:
        raise FormatError(
            f"its type is {dtype}; F32, F16 and BF16 can be read", where=where, hint="save the model in bfloat16"
        )
    try:
        n_bytes = tensor_bytes(tuple(shape), TYPE_BY_NAME[FLOAT_TYPES[dtype]])
    except FormatError as error:
        raise FormatError(error.message, where=where, hint=_DAMAGED) from error
    first, last = offsets
    if last - first != n_bytes or last > n_data:
        raise FormatError(
            f"{dtype} {shape} has {n_bytes} bytes, but it is said to lie in bytes {first} to {last} of {n_data}",
            where=where,
            hint=_DAMAGED,
        )
    return TensorInfo(name, tuple(shape), FLOAT_TYPES[dtype], n_bytes, start + first, shard)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
