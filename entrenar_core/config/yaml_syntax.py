"""From text to YAML nodes, under limits, with every error of PyYAML in plain words and its line shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.nodes import Node
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.yaml_places import Place, fail
from entrenar_core.config.yaml_scalars import IMPLICIT_RESOLVERS

MAX_NODES = 10_000
MAX_DEPTH = 20


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


def compose(text: str, name: str) -> Node | None:
    """The root node of the only document; every PyYAML error becomes one Problem with its line shown."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        fail(
            Place(f"{name}:{line}:{column}", (0, line, column)),
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
    assert mark is not None, "a MarkedYAMLError has a mark"
    said = f"{error.context} {problem}"
    for pattern, message in _NEVER_CLOSED:
        if pattern in said:
            return error.context_mark or mark, message, _bare_variable(text.splitlines()[mark.line :])
    for pattern, message, hint in _PLAIN_WORDS:
        if pattern in said:
            return mark, message, hint
    if "mapping values are not allowed here" in said:
        return (mark, *_misplaced_colon(text.splitlines()[mark.line][: mark.column]))
    return mark, f"not valid YAML: {problem}", None


def _bare_variable(lines: Sequence[str]) -> str | None:
    """Advice if a bracket seems open because of the braces of a variable on the first of these lines."""
    found = bool(lines) and "${" in lines[0]
    return 'between { } and [ ], a variable stands in quotes: "${NAME}"' if found else None


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
    place = Place(f"{name}:{row + 1}:{column + 1}", (0, row + 1, column + 1))
    raise ConfigProblems([Problem(place.where, "", (f"{message}; {hint}" if hint else message) + picture)])
