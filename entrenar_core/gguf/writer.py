"""Writes a GGUF file (version 3, little-endian) as a stream: header first, then one tensor at a time.

The header needs only names, shapes and types, so no more than one tensor is ever in memory. Before the file takes its
name it is opened with our own reader and compared with what was meant.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, OutputError
from entrenar_core.gguf.atomic import atomic_file
from entrenar_core.gguf.layout import Layout, aligned, lay_out, located
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue

Chunk = npt.NDArray[np.uint8]
_PADDING_BYTES = 1 << 16
_ENCODE_VALUES = 1 << 20  # small enough for its memory to be reused from piece to piece


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to write. `shape` in numpy order; `produce` is called once, when its turn has come.

    It returns the packed bytes as one uint8 array, or yields them in pieces.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    produce: Callable[[], Chunk | Iterable[Chunk]]


def copy_tensor(file: GGUFFile, name: str) -> TensorPlan:
    """The tensor as it stands in `file`, which must stay open until the writer has had it."""
    info = file.tensors[name]
    return TensorPlan(name, info.shape, info.type_name, lambda: file.raw(name))


def encode_tensor(name: str, values: npt.NDArray[np.float32], type_name: str) -> TensorPlan:
    """`values` encoded as `type_name` while they are written, some rows at a time."""

    def produce() -> Iterator[Chunk]:
        codec = codec_for(type_name)
        rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        step = max(1, _ENCODE_VALUES // rows.shape[1])
        for start in range(0, len(rows), step):
            yield codec.encode(rows[start : start + step])

    return TensorPlan(name, values.shape, type_name, produce)


def write_gguf(
    path: str | os.PathLike[str], metadata: Iterable[tuple[str, MetadataValue]], tensors: Iterable[TensorPlan]
) -> int:
    """Write a file and return its size in bytes; a file that was there is replaced at the very end.

    `general.alignment` in the metadata sets the alignment of tensor data. Raises FormatError when keys or tensors
    clash or do not fit the format, or a producer gives another number of bytes than its tensor has; OutputError when
    the file cannot be written. On any error nothing is left behind.
    """
    target = Path(path)
    plans = list(tensors)
    layout = lay_out(metadata, [(plan.name, plan.shape, plan.type_name) for plan in plans], target)

    def fill(file: BinaryIO) -> None:
        for plan, info in zip(plans, layout.tensors, strict=True):
            _write_tensor(file, plan, info, target)
            _pad(file, aligned(info.n_bytes, layout.alignment) - info.n_bytes)

    write_filled(target, layout, fill)
    return layout.total


def write_filled(target: Path, layout: Layout, fill: Callable[[BinaryIO], None]) -> None:
    """Write the header of a file, let `fill` write its tensors, and give it its name. See `filled_file`.

    Args:
        target: the path; a file that is there is replaced at the very end.
        layout: see `lay_out`.
        fill: gets the file, which stands at the start of the data.
    """
    with filled_file(target, layout) as file:
        fill(file)


@contextmanager
def filled_file(target: Path, layout: Layout) -> Iterator[BinaryIO]:
    """A file with its header, for the block to write the tensors to; it takes its name when the block ends.

    The file stands at the start of the data; what the block leaves out is zeros. It may write through the descriptor,
    from several threads, at the offsets that the layout has.

    Raises:
        OutputError: the file cannot be written, or does not read back as it was meant. Nothing is left behind, as
            after any error of the block.
    """
    check_space(target, layout.total)
    with atomic_file(target, lambda temporary: _verify(temporary, target, layout)) as file:
        file.write(layout.header)
        _pad(file, layout.data_start - len(layout.header))
        file.flush()
        yield file
        file.flush()
        file.truncate(layout.total)


def _write_tensor(file: BinaryIO, plan: TensorPlan, info: TensorInfo, target: Path) -> None:
    """The producer's bytes, which must be exactly as many as the tensor has."""
    written = 0
    try:
        produced = plan.produce()
        for chunk in [produced] if isinstance(produced, np.ndarray) else produced:
            if chunk.dtype != np.uint8:
                raise TypeError(f"the producer of {plan.name} must give uint8, not {chunk.dtype}")
            written += chunk.nbytes
            if written > info.n_bytes:
                break
            file.write(np.ascontiguousarray(chunk).data)
    except FormatError as error:
        raise located(error, target, plan.name) from error
    if written != info.n_bytes:
        count = f"more than {info.n_bytes}" if written > info.n_bytes else str(written)
        raise FormatError(
            f"{count} bytes were produced for {plan.type_name} {list(info.shape)}, which has {info.n_bytes}",
            where=f"{target}: tensor {plan.name}",
        )


def _verify(temporary: Path, target: Path, layout: Layout) -> None:
    """Reopen what was written: the same keys, and every tensor where it was meant to be."""
    meant = [(info.name, info.shape, info.type_name, info.offset) for info in layout.tensors]
    try:
        with GGUFFile.open(temporary) as file:
            found = [(info.name, info.shape, info.type_name, info.offset) for info in file.tensors.values()]
            same = list(file.metadata) == list(layout.keys) and found == meant
            problem = "" if same else "other keys or tensors"
    except FormatError as error:
        problem = error.message
    if problem:
        raise OutputError(
            f"the file does not read back as it was written: {problem}", where=str(target), hint="try another disk"
        )


def write_fully(descriptor: int, packed: npt.NDArray[np.uint8], offset: int) -> None:
    """Write contiguous bytes at a place of a file."""
    view, done = packed.reshape(-1).data, 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def check_space(target: Path, n_bytes: int) -> None:
    """Refuse early what the disk cannot hold: hours of work could precede the moment it is full."""
    if not target.parent.is_dir():
        return
    usage = shutil.disk_usage(target.parent)  # all zero where a file system does not say
    if usage.total and n_bytes > usage.free:
        raise OutputError(
            f"the file needs {n_bytes} bytes, the disk has {usage.free} left", where=str(target), hint="free some space"
        )


def _pad(file: BinaryIO, n_bytes: int) -> None:
    for start in range(0, n_bytes, _PADDING_BYTES):
        file.write(bytes(min(_PADDING_BYTES, n_bytes - start)))
