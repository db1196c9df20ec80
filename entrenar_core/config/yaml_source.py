"""Reads YAML into plain values, with YAML 1.2 scalars and the line and column of every key.

PyYAML scans and composes, `yaml_scalars` says what a plain scalar is, `environment` fills in variables. Aliases are
expanded under a limit on nodes, and duplicate keys are collected as problems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from entrenar_core.config.base import KeyPath, dotted
from entrenar_core.config.environment import expand
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.yaml_places import Place, Source, fail
from entrenar_core.config.yaml_scalars import SCALARS, TAG
from entrenar_core.config.yaml_syntax import MAX_NODES, compose
from entrenar_core.errors import ConfigError

MAX_BYTES = 256 * 1024


Sections = tuple[str, str]
OF_TRAINING: Sections = ("model", "data")


def read_file(
    path: FilePath, environ: Mapping[str, str] | None = None, *, number: int = 0, needs: Sections = OF_TRAINING
) -> Source:
    """Read a YAML file.

    Args:
        environ: what variables stand for; None: the environment of this process.
        number: the position of the file among those of a configuration.
        needs: sections that it needs at least, for messages.

    Raises:
        ConfigError: the file is missing, unreadable, too large, or not text.
        ConfigProblems: it is not YAML, or not a mapping of sections.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration: {error.strerror or error}",
            where=str(path),
            hint=_nearby_yaml(path),
        ) from error
    hint = "is this a YAML file, and not a model or data?"
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES // 1024} KiB", where=str(path), hint=hint)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})", where=str(path), hint=hint) from error
    return read_text(text, str(path), environ, number=number, needs=needs)


def read_text(
    text: str,
    name: str,
    environ: Mapping[str, str] | None = None,
    *,
    number: int = 0,
    needs: Sections = OF_TRAINING,
) -> Source:
    """Read YAML from memory; `name` stands for the file in messages. Raises ConfigProblems like `read_file`."""
    root = compose(text, name)
    source = Source(name, {}, number)
    if root is None:
        hint = f"it needs at least the sections {needs[0]} and {needs[1]}" if number == 0 else None
        fail(Place(f"{name}:1:1", (number, 1, 1)), "the configuration is empty", hint)
    if not isinstance(root, MappingNode):
        hint = f"start with {needs[0]}: and {needs[1]}:"
        fail(_place(source, root), "the configuration must be a mapping of sections", hint)
    source.data = _Builder(source, environ).build(root, ())
    return source


def parse_value(text: str, name: str) -> object:
    """One value on its own, as after ``--set key=``: a scalar, or a list or mapping in flow style.

    Raises:
        ConfigProblems: it is not YAML, or names a variable that is not set.
    """
    root = compose(text, name)
    source = Source(name, {})
    value = None if root is None else _Builder(source, None).build(root, ())
    if source.stopping:
        raise ConfigProblems([problem for _, problem in source.stopping])
    return value


def _place(source: Source, node: Node) -> Place:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    text = node.value if isinstance(node, ScalarNode) else None
    return Place(f"{source.name}:{line}:{column}", (source.number, line, column), text)


class _Builder:
    """Turns nodes into plain values and notes their places in the source."""

    def __init__(self, source: Source, environ: Mapping[str, str] | None) -> None:
        self.source = source
        self.environ = os.environ if environ is None else environ
        self.nodes = 0
        self.open: set[int] = set()

    def build(self, node: Node, path: KeyPath) -> Any:
        place = _place(self.source, node)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            fail(place, f"aliases expand to more than {MAX_NODES} values", "write the values out")
        if id(node) in self.open:
            fail(place, "an alias contains itself", "write the values out")
        self.source.values[path] = place
        if isinstance(node, ScalarNode):
            return self._scalar(node, place, path)
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
        finally:
            self.open.discard(id(node))
        raise AssertionError(f"unknown YAML node {node!r}")

    def _scalar(self, node: ScalarNode, place: Place, path: KeyPath) -> object:
        kind = node.tag.removeprefix(TAG)
        if kind == "str":
            return self._text(node.value, place, path)
        pattern, convert = SCALARS.get(kind, (None, None))
        if pattern is None or convert is None:
            fail(place, f"the tag {_shown_tag(node.tag)} is not allowed", "remove it; values are plain YAML")
        if not re.fullmatch(pattern, node.value):
            fail(place, f"{node.value!r} is not a value of the tag !!{kind}", "remove the tag")
        try:
            return convert(node.value)
        except ValueError:
            fail(place, f"the number is too long ({len(node.value)} digits)")

    def _text(self, text: str, place: Place, path: KeyPath) -> object:
        try:
            return expand(text, self.environ)
        except ConfigError as error:
            problem = Problem(place.where, dotted(path), error.message, error.hint)
            self.source.stopping.append((place.order, problem))
        except ValueError:
            fail(place, "the number is too long")
        return text

    def _sequence(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        self._plain_tag(node, "seq")
        return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        self._plain_tag(node, "map")
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(self.source, key_node)
            if not isinstance(key_node, ScalarNode):
                fail(place, "a key must be a word", "are there braces { } where quotes or nothing should be?")
            key = key_node.value
            if key in content:
                first = self.source.keys[(*path, key)].where.removeprefix(self.source.name + ":")
                problem = Problem(
                    place.where, dotted((*path, key)), f"this key is given twice (first at {first})", "keep one"
                )
                self.source.problems.append((place.order, problem))
                continue
            self.source.keys[(*path, key)] = place
            content[key] = self.build(value_node, (*path, key))
        return content

    def _plain_tag(self, node: Node, kind: str) -> None:
        if node.tag != TAG + kind:
            fail(_place(self.source, node), f"the tag {_shown_tag(node.tag)} is not allowed", "remove it")


def _shown_tag(tag: str) -> str:
    return tag.replace(TAG, "!!")


def _nearby_yaml(path: FilePath) -> str | None:
    """The names of YAML files beside a missing one."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return f"there is no folder {path.parent}" if not path.parent.is_dir() else None
    if path.exists() or not names:
        return None
    from difflib import get_close_matches

    close = get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else f"{path.parent} has {', '.join(names[:5])}"
