"""Named arrays that were read from a file, held against the ones that are expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from entrenar_core.errors import FormatError


def require_same_arrays(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], where: str) -> None:
    """Check that both have the same names, and for each name the same shape and type.

    Raises:
        FormatError: at `where`, naming the first tensor that differs.
    """
    for name, array in expected.items():
        if name not in found:
            raise FormatError(f"tensor {name!r} is missing", where=where)
        other = found[name]
        if other.shape != array.shape:
            raise FormatError(f"tensor {name!r} has shape {other.shape} instead of {array.shape}", where=where)
        if other.dtype != array.dtype:
            raise FormatError(f"tensor {name!r} is {other.dtype} instead of {array.dtype}", where=where)
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise FormatError(f"tensor {unknown[0]!r} belongs to nothing that is trained", where=where)
