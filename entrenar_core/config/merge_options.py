"""Options of `entrenar merge` that speak of several models, laid over a file.

One ``--weight`` is for all models, several are for each in turn; ``--adapter`` adds a model that is the base with an
adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from entrenar_core.config.base import KeyPath
from entrenar_core.config.merge_models import split_reference, with_path_split
from entrenar_core.config.overrides import set_value
from entrenar_core.config.problem import Problem
from entrenar_core.config.quantize_file import Option
from entrenar_core.config.yaml_places import Order, Place, Source

MODELS = ("merge", "models")
ADAPTERS = ("merge", "adapters")
"""No key of the schema: each adds a model."""

_EACH = (("merge", "weight"), ("merge", "density"))
_UNKNOWN = "-"
"""Stands for a base that should be there, so that what follows from its absence is not said as well."""

_AFTER_THE_FILES = 10**9


def set_merge_options(source: Source, options: Sequence[Option]) -> Iterator[tuple[Order, Problem]]:
    """Set all options in `source`, in their order; yields what is wrong with them.

    The values of `MODELS`, `ADAPTERS`, ``merge.weight`` and ``merge.density`` are lists with an entry for each time
    that the option was given.
    """
    for index, option in enumerate(options):
        place = Place(option.name, (_AFTER_THE_FILES, index, 0), _text(option.value))
        if option.key == MODELS:
            _put(source, MODELS, [split_reference(text) for text in option.value], place)
        elif option.key == ADAPTERS:
            yield from _add_adapters(source, option, place)
        elif option.key in _EACH and isinstance(option.value, list) and not option.name.startswith("--set"):
            yield from _set_each(source, option, place)
        elif blocker := set_value(source, option.key, option.value, place):
            yield place.order, Problem(place.where, "", f"{blocker} is not a section", "set the whole value instead")


def _add_adapters(source: Source, option: Option, place: Place) -> Iterator[tuple[Order, Problem]]:
    merge = source.data.get("merge")
    base = merge.get("base") if isinstance(merge, dict) else None
    under = split_reference(base) if isinstance(base, str) else base
    under = with_path_split(under) if isinstance(under, dict) else under
    if not isinstance(under, dict) or not isinstance(under.get("path"), str) or under.get("adapter"):
        hint = "name the model that the adapters belong to: --base base.gguf"
        yield place.order, Problem(place.where, "", "needs a base model without an adapter of its own", hint)
        under = {"path": _UNKNOWN}
        set_value(source, ("merge", "base"), under, place)
    _put(source, MODELS, [*_entries(source), *({"path": under["path"], "adapter": one} for one in option.value)], place)


def _set_each(source: Source, option: Option, place: Place) -> Iterator[tuple[Order, Problem]]:
    values, key = option.value, option.key[-1]
    models = _entries(source)
    if len(values) == 1:
        _forget_own(source, key)
        set_value(source, option.key, values[0], replace(place, text=str(values[0])))
    elif len(values) != len(models):
        there = "there is 1 model" if len(models) == 1 else f"there are {len(models)} models"
        message = f"is given {len(values)} times, and {there}"
        hint = "give it once for all models, or once for each" if models else "set it in the slices of the file"
        yield place.order, Problem(place.where, "", message, hint)
    else:
        source.data["merge"]["models"] = models
        for index, (model, value) in enumerate(zip(models, values, strict=True)):
            if isinstance(model, dict):
                model[key] = value
                _note(source, (*MODELS, index, key), replace(place, text=str(value)))


def _entries(source: Source) -> list[Any]:
    """The models as mappings; what is none stays as it is."""
    merge = source.data.get("merge")
    models = merge.get("models") if isinstance(merge, dict) else None
    given = models if isinstance(models, list) else []
    return [split_reference(one) if isinstance(one, str) else one for one in given]


def _forget_own(source: Source, key: str) -> None:
    """Take a parameter from everything that has one of its own, so that what is set for all counts."""
    merge = source.data.get("merge")
    if not isinstance(merge, dict):
        return
    slices = _mappings(merge.get("slices"))
    for level in [*_mappings(merge.get("models")), *slices, *(one for part in slices for one in _sources(part))]:
        level.pop(key, None)


def _sources(part: dict[str, Any]) -> list[dict[str, Any]]:
    return _mappings(part.get("sources"))


def _mappings(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _put(source: Source, path: tuple[str, ...], value: list[Any], place: Place) -> None:
    set_value(source, path, value, place)
    for index, entry in enumerate(value):
        _note(source, (*path, index), place)
        for key in entry if isinstance(entry, dict) else ():
            _note(source, (*path, index, key), place)


def _note(source: Source, path: KeyPath, place: Place) -> None:
    source.keys[path] = source.values[path] = place


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
