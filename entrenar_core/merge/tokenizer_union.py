"""One tokenizer with the tokens of several: the base's own, in their places, then what each other model adds.

The rules of the base go first. Merges of the others come after all of its own, and scores of new pieces are below all
of its own, each in the order of its model. So text is cut as the base cuts it, as far as new tokens leave it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.merge.model_tensors import Entries, ModelTensors
from entrenar_core.model.token_texts import Tokens

_TOKENIZER = "tokenizer."


def united_tokenizer(found: Sequence[Tokens], models: Sequence[ModelTensors], base: int) -> tuple[list[str], Entries]:
    """The tokens of the result and all keys ``tokenizer.*``.

    Args:
        found: the tokens of each model.
        models: what they are of.
        base: number of the model whose tokens keep their ids, and whose special tokens and template stay.

    Raises:
        ModelError: the tokenizers are of different kinds.
    """
    _check_kinds(found, found[base])
    known = [dict(model.metadata) for model in models]
    order = [base, *(number for number in range(len(models)) if number != base)]
    added = _added_tokens(found, order)
    texts = [*found[base].texts, *(found[number].texts[row] for number, row in added)]
    kinds = [*found[base].kinds, *(found[number].kinds[row] for number, row in added)]
    changed = {
        keys.TOKENIZER_TOKENS: MetadataValue.array(ValueType.STRING, texts),
        keys.TOKENIZER_TOKEN_TYPE: MetadataValue.array(ValueType.INT32, kinds),
    }
    if keys.TOKENIZER_MERGES in known[base]:
        changed[keys.TOKENIZER_MERGES] = MetadataValue.array(ValueType.STRING, _merges(known, order))
    if keys.TOKENIZER_SCORES in known[base]:
        changed[keys.TOKENIZER_SCORES] = MetadataValue.array(ValueType.FLOAT32, _scores(known, base, added))
    kept = [(key, value) for key, value in models[base].metadata if key.startswith(_TOKENIZER)]
    return texts, list({**dict(kept), **changed}.items())


def _check_kinds(found: Sequence[Tokens], first: Tokens) -> None:
    for one in found:
        if one.model != first.model:
            raise ModelError(
                f"a tokenizer of kind {one.model!r} cannot be united with one of kind {first.model!r}",
                where=one.path,
                hint="tokenizer: base gives the result the tokens of the base",
            )


def _added_tokens(found: Sequence[Tokens], order: Sequence[int]) -> list[tuple[int, int]]:
    """Model and row of each token that the ones before lack; what only fills up rows is left out."""
    seen = set(found[order[0]].texts)
    added: list[tuple[int, int]] = []
    for number in order[1:]:
        for row, text in enumerate(found[number].texts):
            if text not in seen and not found[number].is_padding(row):
                seen.add(text)
                added.append((number, row))
    return added


def _merges(known: Sequence[Mapping[str, MetadataValue]], order: Sequence[int]) -> list[str]:
    """All merges, each once, the first time that it comes."""
    merges: dict[str, None] = {}
    for number in order:
        value = known[number].get(keys.TOKENIZER_MERGES)
        if value is not None:
            merges.update(dict.fromkeys(value.value))
    return list(merges)


def _scores(known: Sequence[Mapping[str, MetadataValue]], base: int, added: Sequence[tuple[int, int]]) -> list[float]:
    """Those of the base, and below them whole numbers for what is added, the best of the first model first."""
    own: list[float] = np.asarray(known[base][keys.TOKENIZER_SCORES].value).tolist()
    theirs = {number: np.asarray(known[number][keys.TOKENIZER_SCORES].value) for number in {one for one, _ in added}}
    ranked = sorted(range(len(added)), key=lambda place: (added[place][0], -theirs[added[place][0]][added[place][1]]))
    lowest = np.floor(min(own, default=0.0))
    scores = np.empty(len(added))
    scores[ranked] = lowest - 1 - np.arange(len(added))
    return [*own, *scores.tolist()]
