"""Models in several files: ``name-00001-of-00003.gguf`` and the ``split.*`` keys.

Any shard leads to all of them. The first one carries the metadata of the model, each one the tensors it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from entrenar_core.errors import FormatError
from entrenar_core.gguf.header import Header
from entrenar_core.gguf.keys import SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS_COUNT
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue

_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SAME_MODEL_HINT = "put the shards of one model, all from one download, into one folder"


def shard_count(entries: Mapping[str, MetadataValue], path: Path) -> int:
    """``split.count``, 0 where a file has none. Raises FormatError when it is no whole number."""
    return _integer(entries, SPLIT_COUNT, path, default=0)


def shard_paths(path: Path, header: Header) -> list[Path]:
    """All files of the model that `path` belongs to, in order; `[path]` for a model in one file.

    Raises FormatError when the name does not fit ``split.count``, or files are missing (it names them).
    """
    count = shard_count(header.entries, path)
    if count <= 1:
        return [path]
    match = _SHARD_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise FormatError(
            f"this is one of {count} shards, but its name does not end in -NNNNN-of-{count:05}.gguf",
            where=str(path),
            hint="give the shards back the names they were published under",
        )
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [str(shard) for shard in paths if not shard.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FormatError(
            f"missing shard: {', '.join(missing[:3])}{more}",
            where=str(path),
            hint=f"all {count} files of the model belong into one folder",
        )
    return paths


def shards_beside(path: Path) -> list[Path]:
    """The files that belong to a model if `path` is a shard of it, as far as its name tells and they are there."""
    match = _SHARD_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    names = (_SHARD_NAME.fullmatch(one.name) for one in path.parent.iterdir())
    return [path.with_name(one.string) for one in names if one and one["stem"] == match["stem"]]


def check_shards(paths: Sequence[Path], headers: Sequence[Header]) -> None:
    """Raises FormatError unless number, count and total of tensors agree in all shards."""
    for number, (path, header) in enumerate(zip(paths, headers, strict=True)):
        for key, expected in ((SPLIT_NO, number), (SPLIT_COUNT, len(paths))):
            found = _integer(header.entries, key, path)
            if found != expected:
                raise FormatError(
                    f"the value is {found}, but the file's name means {expected}",
                    where=f"{path}: key {key}",
                    hint=_SAME_MODEL_HINT,
                )
    promised = _integer(headers[0].entries, SPLIT_TENSORS_COUNT, paths[0])
    total = sum(len(header.tensors) for header in headers)
    if promised != total:
        raise FormatError(
            f"the model should have {promised} tensors, its shards hold {total}",
            where=f"{paths[0]}: key {SPLIT_TENSORS_COUNT}",
            hint=_SAME_MODEL_HINT,
        )


def joined_tensors(paths: Sequence[Path], headers: Sequence[Header]) -> dict[str, TensorInfo]:
    """The tensors of all shards in file order. Raises FormatError for a name in two shards."""
    tensors: dict[str, TensorInfo] = {}
    for shard, (path, header) in enumerate(zip(paths, headers, strict=True)):
        for name, info in header.tensors.items():
            if name in tensors:
                raise FormatError(
                    f"the tensor is also in {paths[tensors[name].shard]}",
                    where=f"{path}: tensor {name}",
                    hint=_SAME_MODEL_HINT,
                )
            tensors[name] = TensorInfo(name, info.shape, info.type_name, info.n_bytes, info.offset, shard)
    return tensors


def _integer(entries: Mapping[str, MetadataValue], key: str, path: Path, default: int | None = None) -> int:
    entry = entries.get(key)
    if entry is None and default is not None:
        return default
    value = None if entry is None else entry.value
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(
            "the shard number is missing" if entry is None else f"{entry!r} is no whole number",
            where=f"{path}: key {key}",
            hint=_SAME_MODEL_HINT,
        )
    return value
