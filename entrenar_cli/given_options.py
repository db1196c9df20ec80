"""What was given on a command line, as options that lie over a YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entrenar_core.config.quantize_file import Option

CONFIG_SUFFIXES = (".yaml", ".yml")

Values = Sequence[tuple[str, str, Any]]
"""How an option is written, the dotted key that it sets, and its value; None and []: not given."""


def given_options(values: Values) -> Iterator[Option]:
    """The options that were set; paths as texts."""
    from entrenar_core.config.quantize_file import Option

    for name, key, value in values:
        if value is not None and value != []:
            yield Option(name, tuple(key.split(".")), str(value) if isinstance(value, Path) else value)


def override_options(given: Sequence[str] | None) -> Iterator[Option]:
    """``--set section.key=value``.

    Raises:
        ConfigError: it is written otherwise.
    """
    from entrenar_core.config.quantize_file import Option
    from entrenar_core.config.yaml_source import parse_value
    from entrenar_core.errors import ConfigError

    for one in given or ():
        key, has_value, text = one.partition("=")
        name = f"--set {key.strip()}"
        if not has_value or not all(key.strip().split(".")):
            raise ConfigError("an override is written section.key=value", where=f"--set {one}")
        yield Option(name, tuple(key.strip().split(".")), parse_value(text, name))
