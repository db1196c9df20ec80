"""Opens GGUF models: metadata, tensor list, packed bytes and float32 values.

Files are memory-mapped: opening reads the header once (a 128k-token vocabulary in a few hundredths of a second), arrays
and tensors are touched when they are asked for. A GGUF is untrusted input; see `header` and `cursor` for the checks.
"""

from __future__ import annotations

import difflib
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.foreign import foreign_file_error
from entrenar_core.gguf.header import Header, parse_header
from entrenar_core.gguf.keys import SPLIT_PREFIX
from entrenar_core.gguf.shards import check_shards, joined_tensors, shard_paths
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue


class GGUFFile:
    """A GGUF model in one or several files.

    Attributes:
        paths: the files, in order of shards.
        version: 2 or 3.
        alignment: of the tensor data of the first file, in bytes.
        metadata: key to plain value (str, int, float, bool, list or numpy array), decoded when asked for.
        tensors: name to TensorInfo, in file order.
    """

    def __init__(self, paths: list[Path], headers: list[Header], buffers: list[mmap.mmap]) -> None:
        """Use `GGUFFile.open`."""
        first = headers[0]
        self.paths = paths
        self.version = first.version
        self.alignment = first.alignment
        self.tensors: dict[str, TensorInfo] = joined_tensors(paths, headers) if len(paths) > 1 else dict(first.tensors)
        self._entries = first.entries
        self._byte_orders = [header.byte_order for header in headers]
        self._buffers = buffers
        self.metadata: Mapping[str, object] = _PlainMetadata(first.entries)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUFFile:
        """Open a model; any shard of a split one opens them all.

        Raises FormatError, naming file and key or tensor, for anything that cannot be read or does not fit together.
        """
        given = Path(path)
        buffer = _map_file(given)
        header = parse_header(buffer, str(given))
        paths = shard_paths(given, header)
        if len(paths) == 1:
            return cls(paths, [header], [buffer])
        buffers = [buffer if shard == given else _map_file(shard) for shard in paths]
        headers = [
            header if shard == given else parse_header(mapped, str(shard))
            for shard, mapped in zip(paths, buffers, strict=True)
        ]
        check_shards(paths, headers)
        return cls(paths, headers, buffers)

    def metadata_entries(self) -> list[tuple[str, MetadataValue]]:
        """Keys and typed values in file order, for rewriting.

        Of a model in several files these are the entries of the first one without ``split.*``: what is written from
        them is one whole model.
        """
        if len(self.paths) == 1:
            return list(self._entries.items())
        return [(key, value) for key, value in self._entries.items() if not key.startswith(SPLIT_PREFIX)]

    def is_big_endian(self, shard: int) -> bool:
        """Whether the numbers of a shard have their high byte first."""
        return self._byte_orders[shard] == ">"

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The packed bytes of a tensor, uint8 ``[rows..., row_bytes]``: a read-only view of the mapped file.

        For a big-endian file it is a little-endian copy; FormatError when the type's blocks cannot be swapped.
        """
        info = self._info(name)
        return self._little_endian(info, self._mapped(info))

    def load(self, name: str, *, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """The values of a tensor in numpy order, decoded into a fresh float32 array.

        `rows` selects a contiguous part of the first axis, so that a large matrix can be read piece by piece.
        Raises FormatError for an unknown name and for types without values.
        """
        info = self._info(name)
        packed = self._mapped(info)
        shape = info.shape
        if rows is not None:
            if len(shape) < 2 or rows.step not in (None, 1):
                raise ValueError(f"rows of {name} {list(shape)} must be a slice of a matrix with step 1")
            packed = packed[rows]
            shape = (len(packed), *shape[1:])
        try:
            return codec_for(info.type_name).decode(self._little_endian(info, packed)).reshape(shape)
        except FormatError as error:
            raise FormatError(error.message, where=self._where(info), hint=error.hint) from error

    def close(self) -> None:
        """Let go of the files. Arrays that were handed out stay valid until the last of them is gone."""
        self._buffers = []

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _info(self, name: str) -> TensorInfo:
        if not self._buffers:
            raise ValueError(f"{self.paths[0]} is closed")
        info = self.tensors.get(name)
        if info is None:
            near = difflib.get_close_matches(name, self.tensors, n=1)
            raise FormatError(
                f"there is no tensor {name}",
                where=str(self.paths[0]),
                hint=f"did you mean {near[0]}?" if near else f"the file has {len(self.tensors)} tensors",
            )
        return info

    def _mapped(self, info: TensorInfo) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor as the file has them, uint8 ``[rows..., row_bytes]``."""
        flat = np.frombuffer(self._buffers[info.shard], np.uint8, info.n_bytes, info.offset)
        return flat.reshape(info.raw_shape)

    def _little_endian(self, info: TensorInfo, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`packed`, or a copy with its bytes swapped if it comes from a big-endian file."""
        return self._swapped(info, packed) if self.is_big_endian(info.shard) else packed

    def _where(self, info: TensorInfo) -> str:
        return f"{self.paths[info.shard]}: tensor {info.name}"

    def _swapped(self, info: TensorInfo, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        unit = TYPE_BY_NAME[info.type_name].swap_bytes
        if unit is None:
            raise FormatError(
                f"{info.type_name} blocks of a big-endian file cannot be read",
                where=self._where(info),
                hint="convert the file with gguf-py: gguf_convert_endian.py FILE little",
            )
        return np.ascontiguousarray(packed.reshape(-1, unit)[:, ::-1]).reshape(packed.shape)


class _PlainMetadata(Mapping[str, object]):
    """The entries of a file as plain Python and numpy values."""

    def __init__(self, entries: Mapping[str, MetadataValue]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> Any:
        return self._entries[key].plain

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _map_file(path: Path) -> mmap.mmap:
    """The file, mapped read-only. Raises FormatError for everything that is not a readable file with content."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FormatError("this is a folder, not a GGUF file", where=str(path), hint=_folder_hint(path))
        if not stat.S_ISREG(status.st_mode):
            raise FormatError("this is not a regular file", where=str(path), hint="give the path of a GGUF file")
        if status.st_size == 0:
            raise foreign_file_error(str(path), b"")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise FormatError("there is no such file", where=str(path), hint=_missing_hint(path)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FormatError(
            f"the file cannot be opened: {reason}", where=str(path), hint="check its access rights"
        ) from (error)


def _folder_hint(folder: Path) -> str:
    files = sorted((entry.name for entry in folder.glob("*.gguf")), key=lambda name: (name != "model.gguf", name))
    if files:
        return f"give the file itself: {folder / files[0]}"
    return "give the path of a .gguf file"


def _missing_hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob("*.gguf")], n=1)
    return f"did you mean {path.parent / near[0]}?" if near else f"paths are relative to {Path.cwd()}"
