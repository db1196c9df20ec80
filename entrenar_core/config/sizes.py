"""Sizes as people write them: a number of bytes, or ``700MB``, ``1.5 GiB``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import not_allowed

_UNITS = {"": 1, "b": 1, **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)


def parse_size(value: Any) -> Any:
    """Bytes of a size; ``K``, ``M``, ``G`` alone are taken for powers of 1024, as memory is.

    Raises:
        PydanticCustomError: it is no size above zero.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    unit = match[2].lower() if match else ""
    unit = f"{unit}ib" if unit in {"k", "m", "g", "t"} else unit
    if match is None or unit not in _UNITS or (size := int(float(match[1]) * _UNITS[unit])) < 1:
        raise not_allowed("a size such as 700MB, 1.5GiB or a number of bytes")
    return size


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str), Field(gt=0)]
"""A number of bytes above zero."""
