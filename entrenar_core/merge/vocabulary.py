"""Vocabularies of models that are merged: which row of each embedding belongs to which token of the result.

Tokens are the same when their text is. Models with the same tokens are left as they are; otherwise the result has the
tokens of the base, or all tokens: those of the base first, then what each other model adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.merge.model_tensors import Entries, ModelTensors
from entrenar_core.merge.token_texts import read_model_tokens
from entrenar_core.merge.tokenizer_union import united_tokenizer
from entrenar_core.model.token_texts import Tokens

Policy = Literal["union", "base"]
Rows = npt.NDArray[np.int64]

_EXAMPLES = 8
_TOKENIZER = "tokenizer."
_RULES = (keys.TOKENIZER_MODEL, keys.TOKENIZER_PRE, keys.TOKENIZER_MERGES, keys.TOKENIZER_BOS_ID, keys.TOKENIZER_EOS_ID)
"""Keys that decide how a text is cut."""


@dataclass(frozen=True)
class ModelVocabulary:
    """What became of the tokens of one model.

    Attributes:
        path: of the model.
        n_tokens: that it has.
        mapped: tokens of the result that have a row of their own in it.
        from_base: tokens that it lacks and that are taken from the base.
        averaged: tokens that the base lacks as well: the mean of the models that have them.
        dropped: of its tokens, those that the result lacks; rows without a token count.
        examples: of dropped tokens.
    """

    path: str
    n_tokens: int
    mapped: int
    from_base: int = 0
    averaged: int = 0
    dropped: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergedVocabulary:
    """The tokens of a merge.

    Attributes:
        policy: how they came about.
        base: number of the model that gives the tokenizer.
        n_rows: of the embedding of the result.
        rows: for each model, the rows of its embedding, -1 for a token that it lacks; None where they stay as they are.
        tokenizer: all keys ``tokenizer.*`` of the result.
        models: what became of the tokens of each.
        notices: what a person should know.
    """

    policy: Literal["copied", "union", "base"]
    base: int
    n_rows: int
    rows: tuple[Rows | None, ...]
    tokenizer: Entries
    models: tuple[ModelVocabulary, ...]
    notices: tuple[str, ...] = ()

    @property
    def changes_rows(self) -> bool:
        """Whether any model is seen through a map."""
        return any(rows is not None for rows in self.rows)

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {"policy": self.policy, "rows": self.n_rows, "models": [asdict(model) for model in self.models]}


def map_vocabularies(models: Sequence[ModelTensors], policy: Policy | None, base: int = 0) -> MergedVocabulary:
    """Find the rows of each model for the tokens of the result.

    Args:
        models: open, of one architecture.
        policy: whose tokens the result has; None: all models must have the same ones.
        base: number of the base, or of the first model where there is none.

    Raises:
        ModelError: the tokens differ and there is no policy; or they are spelled in ways that cannot be united; or a
            model with another number of rows does not say what its tokens are.
        TokenizerError: a model has a token twice.
    """
    found = [read_model_tokens(model) for model in models]
    first = found[base]
    rules = tuple(_rule_notices(models, base))
    if all(_same(one, first) for one in found):
        rules = (*rules, *_unsaid_tokens(found, first))
        whole = tuple(ModelVocabulary(one.path, len(one.texts), one.n_rows) for one in found)
        stay = (None,) * len(models)
        return MergedVocabulary("copied", base, first.n_rows, stay, _tokenizer_of(models[base]), whole, rules)
    _check_known(found)
    if policy is None:
        _check_only_padding_differs(found, first)
    if policy == "union":
        texts, tokenizer = united_tokenizer(found, models, base)
        n_rows = len(texts)
    else:
        texts, tokenizer, n_rows = list(first.texts), _tokenizer_of(models[base]), first.n_rows
    rows, reports = _mapped(found, base, texts, n_rows)
    return MergedVocabulary("union" if policy == "union" else "base", base, n_rows, rows, tokenizer, reports, rules)


def _mapped(
    found: Sequence[Tokens], base: int, texts: Sequence[str], n_rows: int
) -> tuple[tuple[Rows | None, ...], tuple[ModelVocabulary, ...]]:
    """The rows of each model, None where they stay, and what became of its tokens."""
    rows = [_rows_of(one, texts, n_rows, found[base]) for one in found]
    stays = [_is_identity(own, one.n_rows) for one, own in zip(found, rows, strict=True)]
    reports = tuple(_report(one, own, rows[base] >= 0) for one, own in zip(found, rows, strict=True))
    return tuple(None if stay else own for stay, own in zip(stays, rows, strict=True)), reports


def _same(one: Tokens, first: Tokens) -> bool:
    """The same tokens in the same rows; a model that does not say its tokens is taken at its number of rows."""
    return one.n_rows == first.n_rows and (not one.texts or not first.texts or one.texts == first.texts)


def _unsaid_tokens(found: Sequence[Tokens], first: Tokens) -> Iterator[str]:
    """What is assumed of models that do not say their tokens. Raises ModelError where the result would have none."""
    if not any(one.texts for one in found):
        yield f"{first.path} has no tokenizer, nor has the result"
        return
    if not first.texts:
        raise ModelError(
            "the model has no tokenizer, and the result is to have it",
            where=first.path,
            hint="put its tokenizer.json into the folder, or name a model that has one as merge.base",
        )
    for one in found:
        if not one.texts:
            yield f"{one.path} has no tokenizer: its rows are taken for those of {first.path}"


def _check_known(found: Sequence[Tokens]) -> None:
    for one in found:
        if not one.texts:
            raise ModelError(
                f"the model does not say which tokens its {one.n_rows} rows belong to, and the others have other rows",
                where=one.path,
                hint="put its tokenizer.json into the folder",
            )


def _check_only_padding_differs(found: Sequence[Tokens], first: Tokens) -> None:
    """Models with the same tokens may have embeddings of other lengths."""
    own = first.real_texts
    for one in found:
        if one.real_texts != own:
            common = len(set(one.real_texts) & set(own))
            raise ModelError(
                f"the tokens differ: it has {len(one.real_texts)}, {first.path} {len(own)}, both {common}",
                where=one.path,
                hint="set merge.tokenizer: union (all tokens), or base (those of the base)",
            )


def _rows_of(one: Tokens, texts: Sequence[str], n_rows: int, first: Tokens) -> Rows:
    """The row of each token in a model; -1 for those that it lacks, and for rows without a token but the base's own."""
    across = one.model != first.model
    places = one.rows_by_name(across_kinds=across)
    rows = np.full(n_rows, -1, np.int64)
    rows[: len(texts)] = [places.get(name, -1) for name in (first.names(across_kinds=True) if across else texts)]
    if one is first and n_rows == first.n_rows:
        rows[len(texts) :] = np.arange(len(texts), n_rows)
    return rows


def _is_identity(rows: Rows, n_rows: int) -> bool:
    return len(rows) == n_rows and bool((rows == np.arange(n_rows)).all())


def _report(one: Tokens, rows: Rows, has_base: npt.NDArray[np.bool_]) -> ModelVocabulary:
    lacks = rows < 0
    used = set(rows[~lacks].tolist())
    dropped = [row for row in range(one.n_rows) if row not in used]
    return ModelVocabulary(
        one.path,
        len(one.texts),
        int((~lacks).sum()),
        int((lacks & has_base).sum()),
        int((lacks & ~has_base).sum()),
        len(dropped),
        tuple(one.texts[row] for row in dropped[:_EXAMPLES] if row < len(one.texts)),
    )


def _tokenizer_of(model: ModelTensors) -> Entries:
    return [(key, value) for key, value in model.metadata if key.startswith(_TOKENIZER)]


def _rule_notices(models: Sequence[ModelTensors], base: int) -> Iterator[str]:
    """Models that cut or join text by other rules than the base: their tokens are the same, texts may not be."""
    known = [dict(_tokenizer_of(model)) for model in models]
    for model, entries in zip(models, known, strict=True):
        other = next((key for key in _RULES if _differs(entries, known[base], key)), None)
        if other is not None:
            yield f"{model.path}: {other} differs from that of {models[base].path}, which the result has"


def _differs(one: Mapping[str, object], other: Mapping[str, object], key: str) -> bool:
    return key in one and key in other and one[key] != other[key]
