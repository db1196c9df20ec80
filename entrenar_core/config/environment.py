"""``${NAME}`` and ``${NAME:-default}`` in the texts of a configuration; ``$${`` stands for the text ``${``.

A value that is one variable and nothing else is read like a plain scalar, so that numbers and true or false work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from entrenar_core.config.yaml_scalars import plain_value
from entrenar_core.errors import ConfigError

_ESCAPE = "$${"
_MARK = re.compile(r"\$\$\{|\$\{[^}]*\}?")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand(text: str, environ: Mapping[str, str]) -> object:
    """The value of a text with its variables filled in.

    Raises:
        ConfigError: a variable is not set and has no default, or ``${`` begins no variable.
    """
    if "${" not in text:
        return text
    filled = _MARK.sub(lambda mark: _ESCAPE[1:] if mark[0] == _ESCAPE else _filled(mark[0], environ), text)
    return plain_value(filled) if _VARIABLE.fullmatch(text) else filled


def escape(text: str) -> str:
    """The text that `expand` turns into `text`."""
    return text.replace("${", _ESCAPE)


def _filled(mark: str, environ: Mapping[str, str]) -> str:
    variable = _VARIABLE.fullmatch(mark)
    if variable is not None and "${" in (variable["default"] or ""):
        raise ConfigError(f"{mark} has a variable inside its default", hint="write one variable, without another in it")
    if variable is None:
        raise ConfigError(
            f"{mark} is not a variable",
            hint="write ${NAME} or ${NAME:-default} with letters, digits and _, or $${ for the text ${",
        )
    name, default = variable["name"], variable["default"]
    value = environ.get(name, "")
    if not value and default is not None:
        return default
    if name not in environ:
        near = get_close_matches(name, environ, n=1, cutoff=0.8)
        meant = f"did you mean ${{{near[0]}}}? " if near else ""
        raise ConfigError(
            f"the environment variable {name} is not set",
            hint=f"{meant}set it before the command, or give a default: ${{{name}:-value}}",
        )
    return value
