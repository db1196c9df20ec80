"""Keys in messages under the names that their reader knows them by: the options of a command, or another section.

Stages speak of keys of the YAML. Who gave an option has no YAML, and who calibrates has no `data` section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.errors import EntrenarError

Names = Mapping[str, str]
"""Dotted key -> what stands for it; ``set key: VALUE`` becomes ``--option VALUE``."""

_OR_NULL = " (or null)"


@contextmanager
def keys_named(names: Names) -> Iterator[None]:
    """What is raised inside the block says `names` for keys."""
    try:
        yield
    except ConfigProblems:
        raise
    except EntrenarError as error:
        error.message = renamed(error.message, names)
        error.where = None if error.where is None else renamed(error.where, names)
        error.hint = None if error.hint is None else renamed(error.hint, names)
        raise


def renamed(text: str, names: Names) -> str:
    """A text with the names in place of the keys."""
    for key in sorted(names, key=len, reverse=True):
        name = names[key]
        whole = rf"(?<![\w./-]){re.escape(key)}(?!\w|\.\w)"
        if name.startswith("-"):
            text = re.sub(rf"\bset {whole}: (?=\w)", f"{name} ", text)
        text = re.sub(whole, name, text)
    return text


@contextmanager
def options_named(names: Names) -> Iterator[None]:
    """Problems of a configuration that an option has speak of options; those of a file keep its words."""
    try:
        yield
    except ConfigProblems as error:
        short = {key.rpartition(".")[2]: name for key, name in names.items()}
        raise ConfigProblems([_of_option(one, names, short) for one in error.problems]) from error


def _of_option(problem: Problem, names: Names, short: Names) -> Problem:
    if not problem.is_of_an_option:
        return problem
    message = renamed(problem.message, names).removesuffix(_OR_NULL)
    hint = None if problem.hint is None else _advice(renamed(problem.hint, names), short)
    return Problem(_place(problem, names), problem.key, message, hint)


def _place(problem: Problem, names: Names) -> str:
    """The option, and what is below its key: ``--columns text``."""
    for key, name in names.items():
        if problem.where == name and problem.key.startswith(f"{key}."):
            return f"{name} {problem.key.removeprefix(f'{key}.')}"
    return problem.where


def _advice(hint: str, short: Names) -> str:
    """``set type: q4_0`` and ``set bits or type``, which name keys without their section."""
    hint = re.sub(r"\bset (\w+): (?=\w)", lambda found: f"{short[found[1]]} " if found[1] in short else found[0], hint)
    return re.sub(
        r"\bset (\w+) or (\w+)\b",
        lambda found: f"{short[found[1]]} or {short[found[2]]}" if {*found.groups()} <= short.keys() else found[0],
        hint,
    )
