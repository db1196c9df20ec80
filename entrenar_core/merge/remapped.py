"""A model whose embedding is seen in the rows of another vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from entrenar_core.gguf import keys
from entrenar_core.gguf.names import OUTPUT, TOKEN_EMBD
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.merge.model_tensors import Entries, Floats, ModelTensors, PackedRows, Shape
from entrenar_core.merge.vocabulary import MergedVocabulary, Rows

_BY_TOKEN = (TOKEN_EMBD, OUTPUT)
_TOKENIZER = "tokenizer."


def remapped(models: Sequence[ModelTensors], vocabulary: MergedVocabulary) -> list[ModelTensors]:
    """The models as they look with the tokens of a merge; those whose rows stay are returned as they are.

    Closing one closes the model below it, and no other.
    """
    if not vocabulary.changes_rows:
        return list(models)
    rows = [
        np.arange(vocabulary.n_rows) if own is None else own  # a model that stays has a row for each token
        for own in vocabulary.rows
    ]
    return [
        model if own is None else _RemappedModel(model, own, models, rows, vocabulary)
        for model, own in zip(models, vocabulary.rows, strict=True)
    ]


class _RemappedModel:
    """See `ModelTensors`. A token that the model lacks has the row of the base, or the mean of those that have it."""

    def __init__(
        self,
        model: ModelTensors,
        own: Rows,
        models: Sequence[ModelTensors],
        rows: Sequence[Rows],
        vocabulary: MergedVocabulary,
    ) -> None:
        self._model = model
        self._own = own
        self._models = models
        self._rows = rows
        self._vocabulary = vocabulary
        self.path = model.path
        self.architecture = model.architecture
        self.shapes: Mapping[str, Shape] = {
            name: (vocabulary.n_rows, *shape[1:]) if name in _BY_TOKEN else shape
            for name, shape in model.shapes.items()
        }
        self.metadata: Entries = _with_tokenizer(model, vocabulary)
        self.tokens: Sequence[str] = next(
            (value.value for key, value in vocabulary.tokenizer if key == keys.TOKENIZER_TOKENS), []
        )

    @property
    def n_bytes(self) -> int:
        return self._model.n_bytes

    def type_name(self, name: str) -> str:
        return self._model.type_name(name)

    def read(self, name: str, first_row: int, out: Floats) -> None:
        if name not in _BY_TOKEN:
            self._model.read(name, first_row, out)
            return
        wanted = self._own[first_row : first_row + len(out)]
        for start, stop in _runs(wanted):
            if wanted[start] >= 0:
                self._model.read(name, int(wanted[start]), out[start:stop])
                continue
            for place in range(start, stop):
                self._fill(name, first_row + place, out[place : place + 1])

    def packed(self, name: str) -> PackedRows | None:
        return None if name in _BY_TOKEN else self._model.packed(name)

    def close(self) -> None:
        self._model.close()

    def _fill(self, name: str, token: int, out: Floats) -> None:
        """The row of a token that the model lacks."""
        base = self._vocabulary.base
        having = [number for number, rows in enumerate(self._rows) if rows[token] >= 0]
        if base in having:
            having = [base]
        row = np.empty_like(out)
        out[...] = 0
        for number in having:
            self._models[number].read(name, int(self._rows[number][token]), row)
            out += row / np.float32(len(having))


def _runs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Stretches that are read at once: rows that follow one another, or that are all missing."""
    steps = np.diff(rows)
    joined = np.where(rows[:-1] < 0, rows[1:] < 0, steps == 1)
    borders = np.flatnonzero(~joined) + 1
    yield from zip([0, *borders.tolist()], [*borders.tolist(), len(rows)], strict=True)


def _with_tokenizer(model: ModelTensors, vocabulary: MergedVocabulary) -> Entries:
    kept = [(key, value) for key, value in model.metadata if not key.startswith(_TOKENIZER)]
    size = keys.architecture_key(model.architecture, keys.VOCAB_SIZE)
    sized = [(key, MetadataValue.uint32(vocabulary.n_rows) if key == size else value) for key, value in kept]
    return [*sized, *vocabulary.tokenizer]
