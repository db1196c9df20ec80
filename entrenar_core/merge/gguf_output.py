"""The result of a merge as a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from entrenar_core.codecs.base import Bytes
from entrenar_core.gguf.layout import Layout, TensorSpec, lay_out
from entrenar_core.gguf.reserve import reserved
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import filled_file, write_fully
from entrenar_core.merge.output import Sink


class GGUFOutput:
    """See `Output`.

    Args:
        path: of the file; one that is there is replaced in the end.
        metadata: all keys.
        tensors: name, shape in numpy order and type, in the order of the file.

    Raises:
        FormatError: keys or tensors clash or do not fit the format.
    """

    def __init__(
        self, path: Path, metadata: Iterable[tuple[str, MetadataValue]], tensors: Iterable[TensorSpec]
    ) -> None:
        self.path = path
        self.layout: Layout = lay_out(metadata, tensors, path)

    @property
    def n_bytes(self) -> int:
        return self.layout.total

    @contextmanager
    def opened(self) -> Iterator[Sink]:
        with filled_file(self.path, self.layout) as file:
            yield _GGUFSink(file.fileno(), self.layout)


class _GGUFSink:
    def __init__(self, descriptor: int, layout: Layout) -> None:
        self._descriptor = descriptor
        self._n_bytes = layout.total
        self._offsets = {info.name: info.offset for info in layout.tensors}

    def write(self, name: str, first_row: int, packed: Bytes) -> None:
        write_fully(self._descriptor, packed, self._offsets[name] + first_row * packed.shape[1])

    def reserved(self) -> AbstractContextManager[None]:
        return reserved(self._descriptor, self._n_bytes)
