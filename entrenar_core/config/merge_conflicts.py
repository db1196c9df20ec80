"""What cannot go together in a merge: the method, its models, the base, and parameters that the method does not have.

All of it is looked for in raw values, which may be wrong in other ways.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrenar_core.config.base import Conflict, Section, key_of
from entrenar_core.config.merge_methods import METHODS, MethodFacts, methods_taking
from entrenar_core.config.merge_models import split_reference, with_path_split
from entrenar_core.config.merge_parameters import TensorParameters

Given = Mapping[str, Any]

_PARAMETERS: Mapping[str, str] = {
    **{key_of(name, field): name for name, field in TensorParameters.model_fields.items()},
    "seed": "seed",
}
"""Key -> what `MethodFacts.takes` calls it."""


def merge_conflicts(given: Given) -> Iterator[Conflict]:
    """Those of the section `merge`."""
    yield from _form_conflicts(given)
    method = str(given.get("method")).lower()
    if method in METHODS:
        facts = METHODS[method]
        yield from _base_conflicts(given, method, facts)
        yield from _count_conflicts(given, method, facts)
        yield from _parameter_conflicts(given, method, facts)


def _form_conflicts(given: Given) -> Iterator[Conflict]:
    if "models" not in given and "slices" not in given:
        yield Conflict("models", "required key is missing", "set models: [a.gguf, b.gguf], or slices for single layers")
    if "models" in given and "slices" in given:
        yield Conflict("slices", "cannot go together with merge.models", "keep one of them")


def _base_conflicts(given: Given, method: str, facts: MethodFacts) -> Iterator[Conflict]:
    if facts.over_base == "required" and "base" not in given:
        message = f"{method} works on what the models changed against a base, and none is named"
        yield Conflict("base", message, "set base: base.gguf")
    if method == "nearswap" and not any("t" in level for _, level in _levels(given)):
        yield Conflict("t", "nearswap needs a distance, and has no usual one", "set t: 0.001")
    if facts.over_base != "never":
        yield from _parameters_of_base(given, method)


def _parameters_of_base(given: Given, method: str) -> Iterator[Conflict]:
    base = files_key(given.get("base"))
    for place, entry in _all_models(given):
        for key in entry if files_key(entry) == base is not None else ():
            if key in _PARAMETERS:
                yield Conflict(f"{place}.{key}", f"has no meaning for the base, which {method} subtracts", "remove it")


def _count_conflicts(given: Given, method: str, facts: MethodFacts) -> Iterator[Conflict]:
    base = files_key(given.get("base"))
    for place, models in _groups(given):
        count = len(merged_models([files_key(one) for one in models], base, facts))
        if not facts.takes_models(count):
            named = "1 is named" if count == 1 else f"{count or 'none'} are named"
            yield Conflict(place, f"{method} takes {_how_many(facts)}, and {named}", _how_to_have(facts, count))


def _groups(given: Given) -> Iterator[tuple[str, list[Given]]]:
    """Models that are merged with each other: all, or those of each slice."""
    groups = [("models", entries(given.get("models")))]
    groups += [(f"slices.{number}.sources", entries(one.get("sources"))) for number, one in _slices(given)]
    yield from ((place, models) for place, models in groups if models)


def _how_many(facts: MethodFacts) -> str:
    least, most = facts.n_models
    models = "1 model" if least == 1 else f"{least} models"
    beside = " beside the base" if facts.over_base == "required" else ""
    return f"{models}{beside}" if most == least else f"at least {models}{beside}"


def _how_to_have(facts: MethodFacts, count: int) -> str:
    if count < facts.n_models[0]:
        return "name more models"
    return "remove some, or use slices" if facts.n_models[1] == 1 else "remove some, or use iterative_slerp"


def merged_models(
    models: Sequence[tuple[str, str | None] | None], base: tuple[str, str | None] | None, facts: MethodFacts
) -> list[tuple[str, str | None] | None]:
    """The models that the method joins, in their order: a base that is subtracted is none of them, and of two models
    between which a method goes the base is the first."""
    if base is None:
        return list(models)
    if facts.over_base != "never":
        return [one for one in models if one != base]
    if facts.base_is_a_model:
        return [base, *(one for one in models if one != base)]
    return list(models)


def _parameter_conflicts(given: Given, method: str, facts: MethodFacts) -> Iterator[Conflict]:
    for place, level in [*_levels(given), *_all_models(given)]:
        for key in [key for key in level if key in _PARAMETERS and _PARAMETERS[key] not in facts.takes]:
            others = ", ".join(methods_taking(_PARAMETERS[key]))
            yield Conflict(
                f"{place}.{key}".lstrip("."), f"has no meaning for {method}", f"remove it; it is for {others}"
            )


def _levels(given: Given) -> Iterator[tuple[str, Given]]:
    """The section itself, and its slices."""
    yield "", given
    for index, one in _slices(given):
        yield f"slices.{index}", one


def _all_models(given: Given) -> Iterator[tuple[str, Given]]:
    yield from ((f"models.{index}", one) for index, one in enumerate(entries(given.get("models"))))
    for number, one in _slices(given):
        for index, source in enumerate(entries(one.get("sources"))):
            yield f"slices.{number}.sources.{index}", source


def _slices(given: Given) -> Iterator[tuple[int, Given]]:
    yield from enumerate(entries(given.get("slices")))


def entries(value: object) -> list[Given]:
    """The entries of a list as mappings of what is set in them; a path is an entry too."""
    return [_given(one) for one in value] if isinstance(value, (list, tuple)) else []


def _given(entry: object) -> Given:
    if isinstance(entry, str):
        return split_reference(entry)
    if isinstance(entry, Section):
        fields = type(entry).model_fields.items()
        raw = {key_of(name, field): getattr(entry, name) for name, field in fields if name in entry.model_fields_set}
    else:
        raw = dict(with_path_split(entry)) if isinstance(entry, Mapping) else {}
    return {key: value for key, value in raw.items() if value is not None}


def files_key(entry: object) -> tuple[str, str | None] | None:
    """Equal for the same files; None where no path is given. See `ModelFiles.key`."""
    known = _given(entry)
    path, adapter = known.get("path"), known.get("adapter")
    if not isinstance(path, str):
        return None
    return _absolute(path), _absolute(adapter) if isinstance(adapter, str) else None


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
