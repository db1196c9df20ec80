"""From a YAML file and ``--set`` overrides to a checked Config, or one error with everything that is wrong.

Read the source with places, apply the overrides, validate every section, look for conflicts between keys,
and give each problem its place, its value, what is allowed and what may have been meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from entrenar_core.config.base import (
    CONFLICT,
    KeyPath,
    Path,
    Section,
    conflicts_below,
    dotted,
    schema_fields,
    schema_path,
)
from entrenar_core.config.compose import compose_text, read_composed
from entrenar_core.config.describe import describe
from entrenar_core.config.kinds import refuse_quantizing_files
from entrenar_core.config.ludwig import translate_features
from entrenar_core.config.overrides import apply_overrides
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.suggest import hint_for_key
from entrenar_core.config.yaml_places import Order, Source

if TYPE_CHECKING:
    from entrenar_core.config.root import Config

Root = TypeVar("Root", bound=Section)
Placed = tuple[Order, Problem]
"""A problem with its position in the file, for sorting."""

_EMPTY_IS_UNCLEAR: Mapping[Path, str] = {
    ("lora",): "write lora: {} for LoRA with its defaults, or lora: null to train the whole model",
    ("quantize",): "write quantize: {bits: 4}, or quantize: null for none",
    ("merge",): "write merge: {method: ties}, or merge: null for none",
    ("distill",): "write distill: {teacher: big.gguf}, or distill: null for none",
    ("distill", "cache"): "write cache: {path: teacher-cache}, or null for none",
    ("distill", "on_policy"): "write on_policy: {} for its defaults, or null for none",
    ("distill", "student"): "write student: {layers: 6}, or null for none",
    ("training", "early_stopping"): "write early_stopping: {patience: 3}, or null for none",
}
"""Sections whose absence means something; with all their keys commented out, the intent is not known."""


def load_config(path: FilePath, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file with all that it builds on, override and check it.

    Whether the model and the data that it names exist is not looked at.

    Args:
        path: the YAML file.
        overrides: ``section.key=value`` texts, their values in YAML.

    Raises:
        ConfigError: the file cannot be read, or is for another command.
        ConfigProblems: everything that is wrong with it (a ConfigError).
    """
    source = read_composed(path)
    refuse_quantizing_files(source.data, str(path))
    return _checked(source, overrides, default_output_dir=f"runs/{path.stem}")


def config_from_text(text: str, name: str, overrides: Sequence[str] = ()) -> Config:
    """Like `load_config` for YAML in memory; `name` stands for the file in messages."""
    return _checked(compose_text(text, name), overrides, default_output_dir=None)


def _checked(source: Source, overrides: Sequence[str], default_output_dir: str | None) -> Config:
    from entrenar_core.config.root import Config  # other commands have schemas of their own

    found: list[Placed] = [*apply_overrides(source, overrides), *_empty_sections(source)]
    found += translate_features(source)
    _fill_output_dir(source.data, default_output_dir)
    return checked_section(source, Config, found)


def checked_section(source: Source, root: type[Root], found: Sequence[Placed] = ()) -> Root:
    """The values of a source as a section of the schema.

    Args:
        source: what was read, overrides included.
        root: the whole schema of such a file.
        found: problems that are known already.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    problems = [*source.problems, *found]
    fields = dict(schema_fields(root))
    config: Root | None = None
    try:
        config = root.model_validate(source.data)
    except ValidationError as error:
        problems += _value_problems(error.errors(), source, fields)
    problems += _conflict_problems(source, root)
    if config is None or problems:
        raise ConfigProblems([problem for _, problem in sorted(problems, key=lambda placed: placed[0])])
    return config


def _fill_output_dir(data: dict[str, Any], default: str | None) -> None:
    training = data.get("training")
    if default is not None and (training is None or (isinstance(training, dict) and "output_dir" not in training)):
        data["training"] = {**(training or {}), "output_dir": default}


def _empty_sections(source: Source) -> Iterator[Placed]:
    for path, hint in _EMPTY_IS_UNCLEAR.items():
        place = source.values.get(path)
        if place is not None and place.text == "":
            yield place.order, Problem(place.where, ".".join(path), "this section is empty", hint)


def _value_problems(
    errors: Sequence[ErrorDetails], source: Source, fields: Mapping[Path, FieldInfo]
) -> Iterator[Placed]:
    reported: set[KeyPath] = set()
    for error in errors:
        if error["type"] in (CONFLICT, "default_factory_not_called"):
            continue
        if error["type"] == "extra_forbidden":
            place = _in_file(error["loc"], source)
            found = source.place(place)
            yield found.order, _unknown_key(found.where, place, fields)
            continue
        loc = error["loc"]
        while loc and schema_path(loc) not in fields:
            loc = loc[:-1]
        place = _in_file(loc, source)
        if place in reported or not place:
            continue
        reported.add(place)
        yield _wrong_value(error, place, loc, source, fields[schema_path(loc)])


def _in_file(loc: KeyPath, source: Source) -> KeyPath:
    """The place that a person wrote for one of the schema: a list of one may stand there without brackets, and a
    plain path for the mapping of its entry."""
    place: KeyPath = ()
    for part in loc:
        if (*place, part) in source.values:
            place = (*place, part)
        elif isinstance(part, str):
            around = source.values.get(place)
            if around is not None and around.text and place:
                return place
            place = (*place, part)
    return place


def _wrong_value(error: ErrorDetails, place: KeyPath, loc: KeyPath, source: Source, field: FieldInfo) -> Placed:
    """A missing key, or a value that the field does not take."""
    key = dotted(place)
    if error["type"] == "missing":
        found = source.place(place)
        return found.order, Problem(found.where, key, f"required key is missing ({field.description})")
    found = source.place(place, of_value=True)
    return found.order, Problem(found.where, key, *describe(error, loc, field, found.text))


def _unknown_key(where: str, place: KeyPath, fields: Mapping[Path, FieldInfo]) -> Problem:
    key = dotted(place)
    return Problem(where, key, "unknown key", hint_for_key(schema_path(place), fields))


def _conflict_problems(source: Source, root: type[Section]) -> Iterator[Placed]:
    for place, conflict in conflicts_below(root, source.data):
        found = source.place(place)
        message = conflict.message + _in_other_files(conflict.message, found.where, source)
        yield found.order, Problem(found.where, dotted(place), message, conflict.hint)


def _in_other_files(message: str, where: str, source: Source) -> str:
    """Where the keys of a message stand that were not set in the same file."""
    if where.startswith("-"):  # options name each other
        return ""
    for word in message.split():
        other = source.keys.get(tuple(word.strip(",;:").split(".")))
        if "." in word and other is not None and other.where.split(":")[0] != where.split(":", maxsplit=1)[0]:
            return f" (set in {other.where}; null takes it away)"
    return ""
