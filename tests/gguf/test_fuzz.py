"""A damaged file is a FormatError or a consistent model: never another exception, never a huge allocation."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.errors import FormatError
from entrenar_core.gguf.header import Header, parse_header
from tests.gguf.build_small import small_model

WHOLE = small_model().build()
BIG_ENDIAN = small_model(order=">").build()
HEADER_BYTES = len(small_model().header())
MEMORY_LIMIT = 4 << 20

EXTREME_NUMBERS = st.sampled_from([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63, 2**64 - 1])


def parse_or_refuse(data: bytes) -> None:
    """Parse, decode all there is, and check the promises that the reader makes about what it accepts."""
    tracemalloc.start()
    try:
        check_promises(parse_header(data, "m.gguf"), len(data))
    except FormatError as error:
        assert str(error)
        assert error.where is not None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_LIMIT


def check_promises(header: Header, size: int) -> None:
    for entry in header.entries.values():
        assert len(np.ravel(np.array(entry.value, dtype=object))) <= size
        repr(entry)
        entry.encode()
    ends = 0
    for info in sorted(header.tensors.values(), key=lambda info: info.offset):
        assert info.offset >= max(ends, header.data_start)
        assert info.offset % header.alignment == 0
        assert int(np.prod(info.raw_shape, dtype=object)) == info.n_bytes
        ends = info.offset + info.n_bytes
    assert ends <= size


@pytest.mark.property
@settings(max_examples=400)
@given(
    whole=st.sampled_from([WHOLE, BIG_ENDIAN]),
    flips=st.lists(st.tuples(st.integers(0, HEADER_BYTES), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes(whole: bytes, flips: list[tuple[int, int]]) -> None:
    data = bytearray(whole)
    for position, mask in flips:
        data[position] ^= mask
    parse_or_refuse(bytes(data))


@pytest.mark.property
@given(length=st.integers(0, len(WHOLE)), tail=st.binary(max_size=20))
def test_truncated_files_and_files_with_another_end(length: int, tail: bytes) -> None:
    parse_or_refuse(WHOLE[:length] + tail)


@pytest.mark.property
@settings(max_examples=400)
@given(position=st.integers(4, HEADER_BYTES), number=EXTREME_NUMBERS, letter=st.sampled_from(["<I", "<Q", ">I", ">Q"]))
def test_extreme_numbers_anywhere_in_the_header(position: int, number: int, letter: str) -> None:
    packed = struct.pack(letter, number % 2 ** (8 * struct.calcsize(letter)))
    parse_or_refuse(WHOLE[:position] + packed + WHOLE[position + len(packed) :])


@pytest.mark.property
@given(body=st.binary(max_size=200), version=st.sampled_from([2, 3, 3 << 24]))
def test_noise_behind_a_valid_start(body: bytes, version: int) -> None:
    parse_or_refuse(b"GGUF" + struct.pack("<IQQ", version, 1, 1) + body)


@pytest.mark.property
@given(start=st.integers(0, HEADER_BYTES), length=st.integers(1, 40), target=st.integers(0, HEADER_BYTES))
def test_pieces_copied_to_other_places(start: int, length: int, target: int) -> None:
    parse_or_refuse(WHOLE[:target] + WHOLE[start : start + length] + WHOLE[target:])
