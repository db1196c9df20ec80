"""A Hugging Face safetensors folder as an input of a merge, under GGUF's names and in GGUF's row order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.names import (
    OUTPUT,
    ROPE_FREQS,
    TOKEN_EMBD,
    has_permuted_rows,
    permute_rope_rows,
    to_gguf,
    to_hugging_face,
)
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.hugging_face.config import ModelConfig, read_config
from entrenar_core.hugging_face.json_object import JsonObject, read_json
from entrenar_core.hugging_face.safetensors_files import SafetensorsFiles, open_safetensors
from entrenar_core.hugging_face.tokenizer import read_tokenizer
from entrenar_core.merge.model_tensors import Entries, Floats, Shape
from entrenar_core.merge.row_order import RotaryRows
from entrenar_core.merge.stored_rows import Scratch, StoredRows, row_bytes
from entrenar_core.model.load import check_shapes, expected_shapes
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import spec_from_metadata

CONFIG = "config.json"
_DERIVED = ("rotary_emb.inv_freq",)  # old folders keep what follows from the config


@dataclass(frozen=True)
class _Stored:
    """A tensor under its GGUF name: where it lies, and how many heads its rows are sorted by there, if they are."""

    info: TensorInfo
    heads: int | None


class HuggingFaceModel:
    """See `ModelTensors`.

    Raises:
        ModelError: the model is of a kind that is not supported, or tensors are missing or of another shape.
        TokenizerError: its tokenizer cannot be said in GGUF.
        FormatError: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self._folder = folder
        self._json = read_json(folder / CONFIG)
        self._config = read_config(self._json)
        self.architecture = self._config.architecture
        self._files = open_safetensors(folder)
        self._stored = _by_gguf_name(self._files, self._config)
        self.shapes: Mapping[str, Shape] = self._checked_shapes()
        self._rows = StoredRows(self._files, (one.info for one in self._stored.values()))
        self._piece, self._part = Scratch(), Scratch()

    @cached_property
    def metadata(self) -> Entries:
        rows = self.shapes[TOKEN_EMBD][0]
        architecture = self._config.architecture
        types = [one.info.type_name for one in self._stored.values() if len(one.info.shape) > 1]
        commonest = max(set(types), key=types.count)
        return [
            (keys.GENERAL_ARCHITECTURE, MetadataValue.string(architecture)),
            (keys.GENERAL_TYPE, MetadataValue.string("model")),
            (keys.GENERAL_NAME, MetadataValue.string(self._folder.resolve().name)),
            *self._config.entries,
            (keys.architecture_key(architecture, keys.VOCAB_SIZE), MetadataValue.uint32(rows)),
            (keys.GENERAL_FILE_TYPE, MetadataValue.uint32(keys.FileType[commonest])),
            *read_tokenizer(self._folder, self._json, rows),
        ]

    @cached_property
    def tokens(self) -> Sequence[str]:
        tokens: list[str] = next((value.value for key, value in self.metadata if key == keys.TOKENIZER_TOKENS), [])
        return tokens

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._files.paths)

    @property
    def config(self) -> JsonObject:
        """The config.json."""
        return self._json

    def type_name(self, name: str) -> str:
        return self._stored[name].info.type_name if len(self.shapes[name]) > 1 else "F32"

    def read(self, name: str, first_row: int, out: Floats) -> None:
        if name == ROPE_FREQS and self._config.rope.factors is not None:
            out[...] = self._config.rope.factors
            return
        stored = self._stored[name]
        if stored.heads is None:
            self._rows.read(stored.info, first_row, out)
        else:
            self._read_rotary(stored.info, stored.heads, first_row, out)

    def packed(self, name: str) -> None:
        """Never: floats are the same when they are made anew."""

    def close(self) -> None:
        self._rows.close()

    def _read_rotary(self, info: TensorInfo, heads: int, first_row: int, out: Floats) -> None:
        if len(info.shape) == 1:
            self._rows.read(info, 0, out)
            out[0] = permute_rope_rows(out[0], heads)
            return
        size, order = row_bytes(info), RotaryRows(info.shape[0], heads)
        raw = self._piece.rows(len(out), size)
        for span in order.spans(first_row, len(out)):
            part = self._part.rows(span.count, size)
            self._rows.read_packed(info, span.first, part)
            raw[span.places] = part
        self._rows.decode(info, order.numbers(first_row, len(out)), raw, out)

    def _checked_shapes(self) -> dict[str, Shape]:
        """The shapes in the order of GGUF files, those of the architecture."""
        found = {name: tuple(one.info.shape) for name, one in self._stored.items()}
        if self._config.rope.factors is not None:
            found[ROPE_FREQS] = self._config.rope.factors.shape
        embedding = found.get(TOKEN_EMBD, ())
        if len(embedding) != 2:
            raise ModelError(f"there is no matrix {to_hugging_face(TOKEN_EMBD, self.architecture)}", where=self.path)
        spec = spec_from_metadata(
            traits_of(self.architecture, self.path),
            {key: value.plain for key, value in self._config.entries},
            vocab_size=embedding[0],
            tie_embeddings=self._config.tied,
            source=str(self._folder / CONFIG),
        )
        check_shapes(found, spec, self.path)
        expected = expected_shapes(spec)
        return {**expected, **{name: shape for name, shape in found.items() if name not in expected}}


def _by_gguf_name(files: SafetensorsFiles, config: ModelConfig) -> dict[str, _Stored]:
    stored: dict[str, _Stored] = {}
    for hf_name, info in files.tensors.items():
        if hf_name.endswith(_DERIVED):
            continue
        where = f"{files.paths[info.shard]}: tensor {hf_name[:100]}"
        try:
            name = to_gguf(hf_name, config.architecture)
        except FormatError as error:
            raise FormatError(error.message, where=where, hint=error.hint) from error
        if name == OUTPUT and config.tied:  # whoever loads the folder uses the embedding
            continue
        heads = config.n_heads if ".attn_q." in name else config.n_kv_heads
        stored[name] = _Stored(info, heads if has_permuted_rows(name, config.architecture) else None)
    return stored
