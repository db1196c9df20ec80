"""Reads rows of packed tensors into buffers that are used again, from several threads.

Reading a mapped file costs a page fault for every few pages and leaves them in the process's memory; a read into a warm
buffer costs a copy. What comes next is asked of the disk beforehand.
"""

from __future__ import annotations

import os
from types import TracebackType

from entrenar_core.codecs.base import Bytes
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo

AHEAD_BYTES = 32 << 20


class RowSource:
    """The files of a model, open for reading."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._descriptors: list[int] = []
        self._asked: list[int] = []
        for path in file.paths:
            self._descriptors.append(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
            self._asked.append(0)

    def read(self, info: TensorInfo, first_byte: int, out: Bytes) -> None:
        """Fill `out`, flat uint8, with the little-endian bytes of a tensor from `first_byte` on.

        Raises:
            FormatError: the file has become shorter, or its byte order cannot be changed for this type.
            OSError: it cannot be read.
        """
        descriptor, offset = self._descriptors[info.shard], info.offset + first_byte
        self._ask_ahead(info.shard, offset + out.nbytes)
        view, done = out.data, 0
        while done < out.nbytes:
            got = os.preadv(descriptor, [view[done:]], offset + done)
            if not got:
                raise FormatError("the file has become shorter while it was read", where=self.where(info))
            done += got
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

    def _ask_ahead(self, shard: int, position: int) -> None:
        if position + AHEAD_BYTES // 2 < self._asked[shard] or not hasattr(os, "posix_fadvise"):
            return
        start = max(position, self._asked[shard])
        self._asked[shard] = position + AHEAD_BYTES
        os.posix_fadvise(self._descriptors[shard], start, position + AHEAD_BYTES - start, os.POSIX_FADV_WILLNEED)

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
