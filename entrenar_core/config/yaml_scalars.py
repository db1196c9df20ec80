"""What a plain YAML scalar means: the core schema of YAML 1.2.2 (section 10.3).

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``on`` is true and ``010`` is eight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

TAG = "tag:yaml.org,2002:"


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _float(text: str) -> float:
    special = text.lower().lstrip("+")
    return float(special.replace(".", "", 1)) if special.endswith((".inf", ".nan")) else float(text)


SCALARS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "null": (r"(?:null|Null|NULL|~|)", lambda text: None),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)", lambda text: text.lower() == "true"),
    "int": (r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", _integer),
    "float": (
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        _float,
    ),
}
IMPLICIT_RESOLVERS = {None: [(TAG + name, re.compile(pattern + r"\Z")) for name, (pattern, _) in SCALARS.items()]}
"""What PyYAML's resolvers and dumpers need to treat plain scalars as YAML 1.2 does."""


def plain_value(text: str) -> object:
    """What a text means that stands in YAML without quotes; a text that is no other scalar is itself.

    Raises:
        ValueError: a whole number with more digits than Python converts.
    """
    for pattern, convert in SCALARS.values():
        if re.fullmatch(pattern, text):
            return convert(text)
    return text
