"""A GGUF file, or one in several shards, as an input of a merge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from entrenar_core.codecs.base import Bytes
from entrenar_core.errors import ModelError
from entrenar_core.gguf.keys import GENERAL_ARCHITECTURE, GENERAL_TYPE, TOKENIZER_TOKENS
from entrenar_core.gguf.names import TOKEN_EMBD
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.merge.model_tensors import Entries, Floats, PackedRows, Shape
from entrenar_core.merge.stored_rows import StoredRows


class GGUFModel:
    """See `ModelTensors` and `PackedRows`. The file belongs to the model, which closes it.

    Raises:
        ModelError: this is no language model.
        FormatError: a tensor has a type that nobody decodes.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.path = str(file.paths[0])
        self.architecture = _architecture(file, self.path)
        self.shapes: dict[str, Shape] = {name: tuple(info.shape) for name, info in file.tensors.items()}
        self._file = file
        self._rows = StoredRows(file, file.tensors.values())

    @cached_property
    def metadata(self) -> Entries:
        return self._file.metadata_entries()

    @cached_property
    def tokens(self) -> Sequence[str]:
        tokens = self._file.metadata.get(TOKENIZER_TOKENS)
        return tokens if isinstance(tokens, list) else []

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._file.paths)

    def type_name(self, name: str) -> str:
        return self._file.tensors[name].type_name

    def read(self, name: str, first_row: int, out: Floats) -> None:
        self._rows.read(self._file.tensors[name], first_row, out)

    def packed(self, name: str) -> PackedRows:
        return self

    def read_packed(self, name: str, first_row: int, raw: Bytes) -> None:
        self._rows.read_packed(self._file.tensors[name], first_row, raw)

    def close(self) -> None:
        self._rows.close()
        self._file.close()


def _architecture(file: GGUFFile, source: str) -> str:
    architecture = file.metadata.get(GENERAL_ARCHITECTURE)
    if file.metadata.get(GENERAL_TYPE) == "adapter":
        raise adapter_as_model(source)
    if not file.tensors:
        raise ModelError("the file has no tensors", where=source, hint="a vocabulary alone is no model; name the model")
    if not isinstance(architecture, str) or TOKEN_EMBD not in file.tensors:
        raise ModelError(f"there is no matrix {TOKEN_EMBD}", where=source, hint="this is no language model")
    return architecture


def adapter_as_model(source: str) -> ModelError:
    """The error for an adapter where a model should be."""
    return ModelError(
        "this is an adapter, not a model", where=source, hint=f"name its base too: --base BASE --adapter {source}"
    )
