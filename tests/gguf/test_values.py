"""Metadata values: what fits a type is kept exactly, what does not is refused."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import FormatError
from entrenar_core.gguf.cursor import decode_strings
from entrenar_core.gguf.values import MetadataValue, ValueType, encode_string


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (MetadataValue.uint8(255), b"\xff"),
        (MetadataValue.int8(-1), b"\xff"),
        (MetadataValue.uint16(258), b"\2\1"),
        (MetadataValue.int16(-2), b"\xfe\xff"),
        (MetadataValue.uint32(7), b"\7\0\0\0"),
        (MetadataValue.int32(-7), struct.pack("<i", -7)),
        (MetadataValue.uint64(2**64 - 1), b"\xff" * 8),
        (MetadataValue.int64(-(2**63)), bytes(7) + b"\x80"),
        (MetadataValue.float32(1.5), struct.pack("<f", 1.5)),
        (MetadataValue.float64(0.1), struct.pack("<d", 0.1)),
        (MetadataValue.bool(True), b"\1"),
        (MetadataValue.string("é"), struct.pack("<Q", 2) + "é".encode()),
        (MetadataValue.array(ValueType.UINT16, [1, 2]), struct.pack("<IQHH", 2, 2, 1, 2)),
        (MetadataValue.array(ValueType.BOOL, [True, False]), struct.pack("<IQ", 7, 2) + b"\1\0"),
        (MetadataValue.array(ValueType.STRING, ["a"]), struct.pack("<IQQ", 8, 1, 1) + b"a"),
        (MetadataValue.array(ValueType.FLOAT32, []), struct.pack("<IQ", 6, 0)),
        (
            MetadataValue.array(ValueType.ARRAY, [MetadataValue.array(ValueType.UINT8, [3])]),
            struct.pack("<IQIQB", 9, 1, 0, 1, 3),
        ),
    ],
    ids=repr,
)
def test_values_are_encoded_as_the_specification_says(value: MetadataValue, encoded: bytes) -> None:
    assert bytes(value.encode()) == encoded


def test_a_float32_has_the_value_that_the_file_will_have() -> None:
    assert MetadataValue.float32(0.1).value == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ValueType.UINT8, 256),
        (ValueType.UINT32, -1),
        (ValueType.INT16, 40000),
        (ValueType.UINT32, 1.5),
        (ValueType.FLOAT32, 1e40),
        (ValueType.FLOAT32, "1"),
        (ValueType.BOOL, 1),
        (ValueType.STRING, b"bytes"),
        (ValueType.STRING, "\ud800"),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(kind: ValueType, value: Any) -> None:
    with pytest.raises(FormatError):
        MetadataValue.scalar(kind, value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueType.UINT8, [1, 256]),
        (ValueType.UINT32, [-1]),
        (ValueType.INT32, [0.5]),
        (ValueType.INT32, ["1"]),
        (ValueType.INT32, ["one"]),
        (ValueType.BOOL, [0, 1]),
        (ValueType.UINT8, [True]),
        (ValueType.FLOAT32, [1e40]),
        (ValueType.STRING, [1]),
        (ValueType.UINT8, [[1, 2], [3, 4]]),
        (ValueType.ARRAY, [[1]]),
    ],
)
def test_an_array_with_an_element_that_does_not_fit_is_refused(kind: ValueType, values: list[Any]) -> None:
    with pytest.raises(FormatError):
        MetadataValue.array(kind, values)


def test_arrays_of_floats_keep_infinities_and_nans() -> None:
    values = MetadataValue.array(ValueType.FLOAT32, [math.inf, math.nan]).value
    assert values[0] == math.inf
    assert math.isnan(values[1])


def test_values_are_equal_when_type_and_bytes_are() -> None:
    assert MetadataValue.uint32(1) == MetadataValue.uint32(1)
    assert MetadataValue.uint32(1) != MetadataValue.uint64(1)
    assert MetadataValue.array(ValueType.UINT8, []) != MetadataValue.array(ValueType.INT8, [])
    assert MetadataValue.uint32(1) != 1


def test_plain_arrays_of_arrays_are_lists() -> None:
    inner = MetadataValue.array(ValueType.STRING, ["a", "b"])
    assert MetadataValue.array(ValueType.ARRAY, [inner]).plain == [["a", "b"]]


@pytest.mark.property
@given(tokens=st.lists(st.binary(max_size=40)))
def test_tokens_of_any_bytes_are_written_as_they_were_read(tokens: list[bytes]) -> None:
    data = b"".join(struct.pack("<Q", len(token)) + token for token in tokens)
    strings = decode_strings(data, len(tokens), "<")
    assert b"".join(map(encode_string, strings)) == data
