"""Writes docs/config.md, the reference of the YAML, from the schema itself: `python docs/make_config_reference.py`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from entrenar_core.config.base import Section
from entrenar_core.config.root import Config

TARGET = Path(__file__).with_name("config.md")

HEAD = """\
# The YAML, key by key

Written by `python docs/make_config_reference.py` from the schema that checks your file; do not edit it by hand.

Scalars follow YAML 1.2: `1e-4` is a number, `on` and `no` are text. An unknown key is an error with its line and column
and the nearest known key. `entrenar train FILE --set section.key=value` overrides a key. Paths are relative to the
folder you run the command in.
"""


def section_of(annotation: Any) -> type[Section] | None:
    """The section class inside an annotation such as ``Lora | None``."""
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    found = [item for item in candidates if isinstance(item, type) and issubclass(item, Section)]
    return found[0] if found else None


def default_text(field: FieldInfo) -> str:
    """The default as YAML would spell it; empty where the description says it, or for a required key."""
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return repr(value).replace("'", '"') if isinstance(value, str) and not value.isalnum() else str(value)


def tables(section: type[Section], name: str) -> Iterator[str]:
    """The table of a section, then those of the sections inside it."""
    yield f"\n## {name}\n\n{(section.__doc__ or '').splitlines()[0]}\n\n| key | default | meaning |\n|---|---|---|"
    inner: list[tuple[type[Section], str]] = []
    for key, field in section.model_fields.items():
        nested = section_of(field.annotation)
        if nested is not None:
            inner.append((nested, f"{name}.{key}"))
        default = default_text(field)
        yield f"| `{key}` | {f'`{default}`' if default and default != 'required' else default} | {field.description} |"
    for nested, path in inner:
        yield from tables(nested, path)


def reference() -> str:
    """The whole page."""
    lines = [HEAD, "`version: 1` may stand at the top."]
    for key, field in Config.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            lines.extend(tables(section, key))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference())
