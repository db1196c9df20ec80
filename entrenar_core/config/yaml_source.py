"""Reads YAML into plain values, with YAML 1.2 scalars and the line and column of every key.

PyYAML scans and composes, `yaml_scalars` says what a plain scalar is. Aliases are expanded under a limit on nodes,
duplicate keys are collected as problems, and every error of PyYAML is put in plain words with its line shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.yaml_scalars import IMPLICIT_RESOLVERS, SCALARS, TAG
from entrenar_core.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000
MAX_DEPTH = 20
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where a key or a value stands, and the text of the value if it is a scalar (empty for an empty value)."""

    where: str
    order: tuple[int, int]
    text: str | None = None


@dataclass
class Source:
    """Plain values with their places. `problems` are the mistakes that did not stop the reading (duplicate keys)."""

    name: str
    data: dict[str, Any]
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    problems: list[tuple[tuple[int, int], Problem]] = field(default_factory=list)

    def place(self, path: Path, *, of_value: bool = False) -> Place:
        """The place of a key or its value; of the nearest section around it when it is not in the file."""
        for end in range(len(path), 0, -1):
            found = (self.values if of_value and end == len(path) else self.keys).get(path[:end])
            found = found or self.values.get(path[:end])
            if found is not None:
                return found
        return Place(f"{self.name}:1:1", (1, 1))


def read_file(path: FilePath) -> Source:
    """Read a YAML file.

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
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"is larger than {MAX_BYTES // 1024} KiB",
            where=str(path),
            hint="is this a YAML file, and not a model or data?",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})",
            where=str(path),
            hint="is this a YAML file, and not a model or data?",
        ) from error
    return read_text(text, str(path))


def read_text(text: str, name: str) -> Source:
    """Read YAML from memory; `name` stands for the file in messages. Raises ConfigProblems like `read_file`."""
    root = _compose(text, name)
    source = Source(name, {})
    if root is None:
        _fail(
            Place(f"{name}:1:1", (1, 1)), "the configuration is empty", "it needs at least the sections model and data"
        )
    if not isinstance(root, MappingNode):
        _fail(_place(name, root), "the configuration must be a mapping of sections", "start with model: and data:")
    source.data = _Builder(source).build(root, ())
    return source


def parse_value(text: str, name: str) -> object:
    """One value on its own, as after ``--set key=``: a scalar, or a list or mapping in flow style."""
    root = _compose(text, name)
    return None if root is None else _Builder(Source(name, {})).build(root, ())


class _Yaml12Resolver(BaseResolver):
    yaml_implicit_resolvers = IMPLICIT_RESOLVERS


class _Loader(Reader, Scanner, Parser, Composer, _Yaml12Resolver):
    """Composes nodes; refuses more depth and nodes than a configuration can need."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Yaml12Resolver.__init__(self)
        self.depth = 0
        self.nodes = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _TooMuch(self.get_mark())
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TooMuch(Exception):
    def __init__(self, mark: Any) -> None:
        super().__init__("too much")
        self.mark = mark


def _compose(text: str, name: str) -> Node | None:
    """The root node of the only document; every PyYAML error becomes one Problem with its line shown."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        _fail(
            Place(f"{name}:{line}:{column}", (line, column)),
            f"the character U+{ord(text[error.position]):04X} is not allowed in YAML",
        )
    except yaml.MarkedYAMLError as error:
        mark, message, hint = _plain_words(error, text)
        _fail_at(mark, text, name, message, hint)
    except _TooMuch as error:
        _fail_at(error.mark, text, name, "the configuration is nested too deeply or has too many entries", None)
    return root


_PLAIN_WORDS: tuple[tuple[str, str, str | None], ...] = (
    ("'\\t'", "a tab is used for indentation", "YAML wants spaces"),
    ("expected a single document", "the file holds more than one YAML document", "remove the line ---"),
    ("but found another document", "the file holds more than one YAML document", "remove the line ---"),
    ("could not find expected ':'", "a key without ':'", "write key: value"),
    ("expected <block end>", "wrong indentation", "keys of one section start in the same column"),
    ("found undefined alias", "a word that starts with * is an alias, and this one is not defined", "put it in quotes"),
)
_NEVER_CLOSED: tuple[tuple[str, str], ...] = (
    ("found unexpected end of stream", "this quote is not closed"),
    ("expected ',' or ']'", "this [ is not closed, or a comma is missing after it"),
    ("expected ',' or '}'", "this { is not closed, or a comma is missing after it"),
)
"""What PyYAML says, and what it means to the person who wrote the file."""


def _plain_words(error: yaml.MarkedYAMLError, text: str) -> tuple[Any, str, str | None]:
    """Where a scanner or parser error stands, what it means, and what to do."""
    problem, mark = str(error.problem), error.problem_mark or error.context_mark
    said = f"{error.context} {problem}"
    for pattern, message in _NEVER_CLOSED:
        if pattern in said:
            return error.context_mark or mark, message, None
    for pattern, message, hint in _PLAIN_WORDS:
        if pattern in said:
            return mark, message, hint
    if "mapping values are not allowed here" in said and mark is not None:
        return (mark, *_misplaced_colon(text.splitlines()[mark.line][: mark.column]))
    return mark, f"not valid YAML: {problem}", None


def _misplaced_colon(before: str) -> tuple[str, str]:
    """What a ':' means that YAML did not expect, from the text before it on its line."""
    if ":" in before:
        return "a second ':' on this line", "put a value that contains ': ' in quotes"
    return "wrong indentation", "keys of one section start in the same column"


def _fail_at(mark: Any, text: str, name: str, message: str, hint: str | None) -> NoReturn:
    """Raise with the offending line and a caret under the column."""
    lines = text.splitlines() or [""]
    row = min(mark.line, len(lines) - 1)
    column = mark.column if mark.line == row else len(lines[row])
    shown = lines[row].replace("\t", " ")[:120]
    picture = f"\n    {shown}\n    {' ' * min(column, 120)}^"
    place = Place(f"{name}:{row + 1}:{column + 1}", (row + 1, column + 1))
    raise ConfigProblems([Problem(place.where, "", (f"{message}; {hint}" if hint else message) + picture)])


def _fail(place: Place, message: str, hint: str | None = None) -> NoReturn:
    raise ConfigProblems([Problem(place.where, "", message, hint)])


def _place(name: str, node: Node) -> Place:
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    return Place(f"{name}:{line}:{column}", (line, column), node.value if isinstance(node, ScalarNode) else None)


class _Builder:
    """Turns nodes into plain values and notes their places in the source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes = 0
        self.open: set[int] = set()

    def build(self, node: Node, path: Path) -> Any:
        place = _place(self.source.name, node)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            _fail(place, f"aliases expand to more than {MAX_NODES} values", "write the values out")
        if id(node) in self.open:
            _fail(place, "an alias contains itself", "write the values out")
        self.source.values[path] = place
        if isinstance(node, ScalarNode):
            return self._scalar(node, place)
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
        finally:
            self.open.discard(id(node))
        raise AssertionError(f"unknown YAML node {node!r}")

    def _scalar(self, node: ScalarNode, place: Place) -> object:
        kind = node.tag.removeprefix(TAG)
        if kind == "str":
            return node.value
        pattern, convert = SCALARS.get(kind, (None, None))
        if pattern is None or convert is None:
            _fail(place, f"the tag {_shown_tag(node.tag)} is not allowed", "remove it; values are plain YAML")
        if not re.fullmatch(pattern, node.value):
            _fail(place, f"{node.value!r} is not a value of the tag !!{kind}", "remove the tag")
        try:
            return convert(node.value)
        except ValueError:
            _fail(place, f"the number is too long ({len(node.value)} digits)")

    def _sequence(self, node: SequenceNode, path: Path) -> list[Any]:
        self._plain_tag(node, "seq")
        return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        self._plain_tag(node, "map")
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(self.source.name, key_node)
            if not isinstance(key_node, ScalarNode):
                _fail(place, "a key must be a word", "are there braces { } where quotes or nothing should be?")
            key = key_node.value
            if key in content:
                first = self.source.keys[(*path, key)].where.removeprefix(self.source.name + ":")
                dotted = ".".join(str(part) for part in (*path, key))
                problem = Problem(place.where, dotted, f"this key is given twice (first at {first})", "keep one")
                self.source.problems.append((place.order, problem))
                continue
            self.source.keys[(*path, key)] = place
            content[key] = self.build(value_node, (*path, key))
        return content

    def _plain_tag(self, node: Node, kind: str) -> None:
        if node.tag != TAG + kind:
            _fail(_place(self.source.name, node), f"the tag {_shown_tag(node.tag)} is not allowed", "remove it")


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
