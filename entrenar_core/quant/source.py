"""Reads rows of packed tensors into buffers that are used again, from several threads.

Reading a mapped file costs a page fault for every few pages and leaves them in the process's memory; a read into a warm
buffer costs a copy. What comes next is asked of the disk beforehand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from entrenar_core.codecs.base import Bytes
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo

AHEAD_BYTES = 32 << 20


class TensorFiles(Protocol):
    """Files of which each tensor's place is known: a GGUF model, a safetensors folder."""

    @property
    def paths(self) -> Sequence[Path]: ...

    def is_big_endian(self, shard: int) -> bool:
        """Whether the numbers of a file have their high byte first."""
        ...


class RowSource:
    """The files of a model, open for reading."""

    def __init__(self, file: TensorFiles) -> None:
        self._file = file
        self._descriptors: list[int] = []
        self._asked: list[int] = []
        for path in file.paths:
            self._descriptors.append(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
            self._asked.append(0)

    def read(self, info: TensorInfo, first_byte: int, out: Bytes) -> None:
        """Fill `out`, flat uint8, with the little-endian bytes of a tensor from `first_byte` on.

        Raises:
            FormatError: the file has become shorter, cannot be read, or has a type whose byte order cannot be changed.
        """
        try:
            self._fill(info, info.offset + first_byte, out)
        except OSError as error:
            raise FormatError(
                f"the file cannot be read: {error.strerror or error}", where=self.where(info), hint="check the disk"
            ) from error
        if self._file.is_big_endian(info.shard):
            self._swap(info, out)

    def where(self, info: TensorInfo) -> str:
        """The place that an error names."""
        return f"{self._file.paths[info.shard]}: tensor {info.name}"

    def close(self) -> None:
        """Let go of the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> RowSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fill(self, info: TensorInfo, offset: int, out: Bytes) -> None:
        self._ask_ahead(info.shard, offset + out.nbytes)
        view, done = out.data, 0
        while done < out.nbytes:
            got = os.preadv(self._descriptors[info.shard], [view[done:]], offset + done)
            if not got:
                raise FormatError("the file has become shorter while it was read", where=self.where(info))
            done += got

    def _ask_ahead(self, shard: int, position: int) -> None:
        asked = self._asked[shard]  # another thread may move it at any time
        if position + AHEAD_BYTES // 2 < asked or not hasattr(os, "posix_fadvise"):
            return
        start, stop = max(position, asked), position + AHEAD_BYTES
        self._asked[shard] = stop
        os.posix_fadvise(self._descriptors[shard], start, stop - start, os.POSIX_FADV_WILLNEED)

    def _swap(self, info: TensorInfo, out: Bytes) -> None:
        unit = TYPE_BY_NAME[info.type_name].swap_bytes
        if unit is None:
            raise FormatError(
                f"{info.type_name} blocks of a big-endian file cannot be read",
                where=self.where(info),
                hint="convert the file with gguf-py: gguf_convert_endian.py FILE little",
            )
        words = out.reshape(-1, unit)
        words[...] = words[:, ::-1].copy()
