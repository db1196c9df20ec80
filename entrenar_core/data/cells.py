"""One cell as a Python value for people to read, also where Python has no value of its own for it.

Arrow counts nanoseconds, knows years after 9999, and a file may hold text that is not UTF-8: each is shown as text.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def cell_value(cell: pa.Scalar) -> Any:
    """The value of a cell, at any depth; text for what Python cannot hold."""
    if not cell.is_valid:
        return None
    try:
        return cell.as_py()
    except (ValueError, OverflowError):  # a UnicodeDecodeError is a ValueError
        return _in_parts(cell)


def _in_parts(cell: pa.Scalar) -> Any:
    if isinstance(cell, pa.StructScalar):
        return {field.name: cell_value(cell[index]) for index, field in enumerate(cell.type)}
    if isinstance(cell, pa.ListScalar):
        return [cell_value(inner) for inner in cell.values]
    if isinstance(cell, (pa.DictionaryScalar, pa.ExtensionScalar)):
        return cell_value(cell.value)
    if isinstance(cell, pa.BinaryScalar):
        return cell.as_buffer().to_pybytes().decode(errors="replace")
    return _counted(cell)


def _counted(cell: pa.Scalar) -> str:
    """A time as Arrow writes it; where it has no text for it either, the number that is stored."""
    unit = getattr(cell.type, "unit", "days")
    if pa.types.is_duration(cell.type):
        return f"{cell.value} {unit}"
    text = str(cell.cast(pa.string()).as_py())
    return text if text[:1].isdigit() else f"{cell.value} {unit} since 1970"
