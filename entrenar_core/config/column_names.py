"""The key `columns`: which column has which role. It stands in the `data` section and beside calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import NonEmpty, not_allowed
from entrenar_core.config.roles import RoleName


def _column_names(value: Any) -> Any:
    is_mapping = isinstance(value, Mapping) and len(value) > 0
    if not is_mapping or not all(isinstance(name, str) and name for name in value.values()):
        raise not_allowed("a mapping of roles to column names, such as {prompt: question, completion: answer}")
    return dict(value)


ColumnNames = Annotated[
    Mapping[str, str],
    BeforeValidator(_column_names, json_schema_input_type=Annotated[dict[RoleName, NonEmpty], Field(min_length=1)]),
]
"""Role -> column name; which roles there are is a matter of conflicts, where each gets a place of its own."""
