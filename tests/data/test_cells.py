"""Cells for people to read: what Python cannot hold comes as text, at any depth."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from entrenar_core.data.cells import cell_value

BROKEN = pa.array([b"caf\xe9"]).view(pa.string())
LATE = pa.array([2**40], pa.timestamp("s"))  # the year 36812
NANO = pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        (pa.array([7]), 7),
        (pa.array([None], pa.int64()), None),
        (pa.array([datetime.date(2024, 1, 2)]), datetime.date(2024, 1, 2)),
        (NANO, "2023-11-14 22:13:20.000000001"),
        (pa.array([1], pa.duration("ns")), "1 ns"),
        (LATE, "1099511627776 s since 1970"),
        (pa.array([10**7], pa.date32()), "29349-01-26"),
        (BROKEN, "caf\ufffd"),
        (BROKEN.dictionary_encode(), "caf\ufffd"),
        (pa.StructArray.from_arrays([BROKEN, pa.array([1])], ["a", "b"]), {"a": "caf\ufffd", "b": 1}),
        (pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), BROKEN), ["caf\ufffd"]),
    ],
    ids=lambda part: str(part.type) if isinstance(part, pa.Array) else "",
)
def test_a_cell_is_shown_whatever_it_holds(cells: pa.Array, value: Any) -> None:
    assert cell_value(cells[0]) == value
