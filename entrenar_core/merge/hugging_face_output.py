"""The result of a merge as a Hugging Face folder: safetensors, config.json, and the tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.codecs.base import Bytes
from entrenar_core.errors import EntrenarError, ModelError, OutputError
from entrenar_core.gguf import keys
from entrenar_core.gguf.atomic import open_new
from entrenar_core.gguf.layout import TensorSpec
from entrenar_core.gguf.names import (
    OUTPUT,
    ROPE_FREQS,
    TOKEN_EMBD,
    has_permuted_rows,
    to_hugging_face,
    unpermute_rope_rows,
)
from entrenar_core.gguf.reserve import reserved
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import check_space, write_fully
from entrenar_core.hugging_face.atomic_folder import atomic_folder
from entrenar_core.hugging_face.json_object import read_json
from entrenar_core.hugging_face.rope import Floats
from entrenar_core.hugging_face.safetensors_files import INDEX_SUFFIX
from entrenar_core.hugging_face.safetensors_layout import SHARD_BYTES, SafetensorsLayout, index_of, lay_out_safetensors
from entrenar_core.hugging_face.tokenizer import TOKENIZER, TOKENIZER_CONFIG, read_tokenizer, tokenizer_files
from entrenar_core.hugging_face.write_config import config_json, generation_config_json, writable_architecture
from entrenar_core.hugging_face.write_tokenizer import tokenizer_config_json, tokenizer_json
from entrenar_core.merge.hugging_face_model import CONFIG, HuggingFaceModel
from entrenar_core.merge.model_tensors import Entries
from entrenar_core.merge.output import Sink
from entrenar_core.merge.row_order import RotaryRows
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec, spec_from_metadata

_TOKENIZER_KEYS = "tokenizer."


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes, and the heads that its rows are sorted by there, if they are."""

    info: TensorInfo
    heads: int | None


class HuggingFaceOutput:
    """See `Output`.

    Args:
        path: of the folder; a model folder that is there is replaced in the end.
        metadata: all keys of the model, as GGUF has them.
        tensors: GGUF name, shape in numpy order and type, in the order of the files.
        rope_factors: rope_freqs [E/2] if the model has them; their tensor may be among `tensors`, and is not written.
        like: a folder, the base of a merge: its own files are copied where they describe the same tokenizer.
        shard_bytes: bytes of tensors in one file.

    Raises:
        ModelError: transformers has no such model.
        TokenizerError: tokenizer.json has no such tokenizer.
        FormatError: safetensors has no such type.
    """

    def __init__(
        self,
        path: Path,
        metadata: Iterable[tuple[str, MetadataValue]],
        tensors: Iterable[TensorSpec],
        *,
        rope_factors: Floats | None = None,
        like: Path | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = path
        entries = list(metadata)
        self._metadata = {key: value.plain for key, value in entries}
        self._tensors = [spec for spec in tensors if spec[0] != ROPE_FREQS]
        self._architecture = writable_architecture(self._metadata, str(path))
        self._n_rows = next((shape[0] for name, shape, _ in self._tensors if name == TOKEN_EMBD), 0)
        if not self._n_rows:
            raise ModelError(f"there is no matrix {TOKEN_EMBD}", where=str(path))
        self._spec = self._checked_spec()
        names = [str(to_hugging_face(name, self._architecture)) for name, _, _ in self._tensors]
        specs = [(name, spec[1], spec[2]) for name, spec in zip(names, self._tensors, strict=True)]
        self.files = lay_out_safetensors(specs, shard_bytes)
        self._places = self._all_places()
        self._texts = self._described(rope_factors) | _tokenizer_of(like, entries, self._n_rows)

    @property
    def n_bytes(self) -> int:
        return sum(file.total for file in self.files) + sum(map(len, self._texts.values()))

    @contextmanager
    def opened(self) -> Iterator[Sink]:
        check_space(self.path, self.n_bytes)
        with atomic_folder(self.path, self._verify) as folder, ExitStack() as stack:
            for name, content in self._texts.items():
                (folder / name).write_bytes(content)
            descriptors = []
            for file in self.files:
                stream = stack.enter_context(open_new(folder / file.name))
                stream.write(file.header)
                stream.truncate(file.total)
                stream.flush()
                descriptors.append(stream.fileno())
            yield _FolderSink(descriptors, self.files, self._places)

    def _checked_spec(self) -> DecoderSpec:
        """What the keys describe: a model that is the same in all layers, and that can be read back."""
        where = str(self.path)
        is_tied = all(name != OUTPUT for name, _, _ in self._tensors)
        traits = traits_of(self._architecture, where)
        return spec_from_metadata(traits, self._metadata, vocab_size=self._n_rows, tie_embeddings=is_tied, source=where)

    def _described(self, rope_factors: Floats | None) -> dict[str, bytes]:
        """The JSON files by name."""
        where = str(self.path)
        config = config_json(
            self._metadata,
            [name for name, _, _ in self._tensors],
            n_rows=self._n_rows,
            type_name=_commonest_type(self._tensors),
            rope_factors=rope_factors,
            where=where,
        )
        texts: dict[str, Mapping[str, Any]] = {
            CONFIG: config,
            "generation_config.json": generation_config_json(self._metadata),
        }
        if keys.TOKENIZER_TOKENS in self._metadata:
            texts[TOKENIZER] = tokenizer_json(self._metadata, where)
            texts[TOKENIZER_CONFIG] = tokenizer_config_json(self._metadata, config["max_position_embeddings"])
        if len(self.files) > 1:
            texts[f"model.safetensors{INDEX_SUFFIX}"] = index_of(self.files)
        return {name: _json(content) for name, content in texts.items()}

    def _all_places(self) -> dict[str, _Place]:
        """By GGUF name."""
        infos = [info for file in self.files for info in file.tensors]
        return {spec[0]: self._place(spec[0], info) for spec, info in zip(self._tensors, infos, strict=True)}

    def _place(self, name: str, info: TensorInfo) -> _Place:
        if not has_permuted_rows(name, self._architecture):
            return _Place(info, None)
        return _Place(info, self._spec.num_heads if ".attn_q." in name else self._spec.num_kv_heads)

    def _verify(self, folder: Path) -> None:
        """Reopen what was written: a model with the tensors that were meant."""
        meant = {name: tuple(shape) for name, shape, _ in self._tensors}
        try:
            with closing(HuggingFaceModel(folder)) as model:
                found = {name: shape for name, shape in model.shapes.items() if name != ROPE_FREQS}
            problem = "" if found == meant else "other tensors"
        except EntrenarError as error:
            problem = error.message
        if problem:
            raise OutputError(
                f"the folder does not read back as it was written: {problem}",
                where=str(self.path),
                hint="try another disk",
            )


class _FolderSink:
    def __init__(
        self, descriptors: Sequence[int], files: Sequence[SafetensorsLayout], places: Mapping[str, _Place]
    ) -> None:
        self._descriptors = descriptors
        self._files = files
        self._places = places

    def write(self, name: str, first_row: int, packed: Bytes) -> None:
        if name == ROPE_FREQS:  # config.json has said it
            return
        place = self._places[name]
        info, descriptor, size = place.info, self._descriptors[place.info.shard], packed.shape[1]
        if place.heads is None:
            write_fully(descriptor, packed, info.offset + first_row * size)
        elif len(info.shape) == 1:
            values = packed.reshape(info.shape[0], -1)
            write_fully(descriptor, unpermute_rope_rows(values, place.heads), info.offset)
        else:
            for span in RotaryRows(info.shape[0], place.heads).spans(first_row, len(packed)):
                rows = np.ascontiguousarray(packed[span.places])
                write_fully(descriptor, rows, info.offset + span.first * size)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        with ExitStack() as stack:
            for descriptor, file in zip(self._descriptors, self._files, strict=True):
                stack.enter_context(reserved(descriptor, file.total))
            yield


def _tokenizer_of(like: Path | None, entries: Entries, n_rows: int) -> dict[str, bytes]:
    """The files of a folder's tokenizer, by name, if it is the one that the keys describe."""
    if like is None or not (like / CONFIG).is_file():
        return {}
    theirs = read_tokenizer(like, read_json(like / CONFIG), n_rows)
    ours = [(key, value) for key, value in entries if key.startswith(_TOKENIZER_KEYS)]
    if not theirs or dict(theirs) != dict(ours):
        return {}
    return {path.name: path.read_bytes() for path in tokenizer_files(like)}


def _commonest_type(tensors: Sequence[TensorSpec]) -> str:
    """That of most matrices."""
    return Counter(type_name for _, shape, type_name in tensors if len(shape) > 1).most_common(1)[0][0]


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=2).encode() + b"\n"
