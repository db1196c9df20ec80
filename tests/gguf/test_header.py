"""Damaged and hostile headers: each is a FormatError that names the file and the key or tensor."""

from __future__ import annotations

import struct

import pytest

from entrenar_core.errors import FormatError
from entrenar_core.gguf.header import parse_header
from tests.gguf.build_small import ARRAY, BOOL, F32, STRING, U32, SmallGGUF, small_model

HUGE = 2**64 - 1


def refuse(small: SmallGGUF, message: str) -> FormatError:
    with pytest.raises(FormatError, match=message) as caught:
        parse_header(small.build(), "m.gguf")
    assert caught.value.where is not None
    assert caught.value.where.startswith("m.gguf")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("version", "message"), [(1, "version 1 is not supported"), (4, "version 4"), (0, "version 0"), (77, "version 77")]
)
def test_an_unknown_version_is_refused(version: int, message: str) -> None:
    refuse(SmallGGUF(version=version), message)


def test_a_count_of_tensors_or_entries_that_cannot_fit_is_refused() -> None:
    header = struct.pack("<4sIQQ", b"GGUF", 3, HUGE, 0) + bytes(64)
    with pytest.raises(FormatError, match="18446744073709551615 tensors do not fit into the 72 bytes"):
        parse_header(header, "m.gguf")
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 6) + bytes(64)
    with pytest.raises(FormatError, match="6 metadata entries do not fit into the 64 bytes"):
        parse_header(header, "m.gguf")


def test_a_duplicate_key_is_refused() -> None:
    error = refuse(SmallGGUF().uint32("a.key", 1).uint32("a.key", 2), "occurs twice")
    assert error.where == "m.gguf: key a.key"


def test_a_duplicate_tensor_is_refused() -> None:
    error = refuse(SmallGGUF().tensor("w", (1,), 0, bytes(4)).tensor("w", (1,), 0, bytes(4)), "occurs twice")
    assert error.where == "m.gguf: tensor w"


def test_an_unknown_value_type_is_refused() -> None:
    error = refuse(SmallGGUF().entry("a.key", 13, bytes(8)), "metadata type id 13")
    assert error.where == "m.gguf: key a.key"


def test_a_boolean_that_is_neither_zero_nor_one_is_refused() -> None:
    refuse(SmallGGUF().entry("a.key", BOOL, b"\2"), "2 is no boolean")
    refuse(SmallGGUF().array("a.key", BOOL, 2, b"\1\3"), "3 is no boolean")


def test_a_key_that_is_empty_or_no_text_is_refused() -> None:
    refuse(SmallGGUF().uint32("", 1), "the key is empty")
    small = SmallGGUF()
    small.entries.append((b"\xff\xfe", U32, bytes(4)))
    refuse(small, "the key is not UTF-8")
    refuse(SmallGGUF().uint32("k" * 65536, 1), "the format allows 65535")


@pytest.mark.parametrize("length", [40, 2**40, HUGE])
def test_a_string_longer_than_the_file_is_refused(length: int) -> None:
    refuse(
        SmallGGUF().entry("a.key", STRING, struct.pack("<Q", length)), rf"the string at byte \d+ needs {length} bytes"
    )


@pytest.mark.parametrize("count", [20, 2**61, HUGE])
def test_an_array_longer_than_the_file_is_refused(count: int) -> None:
    refuse(SmallGGUF().array("a.key", F32, count, b""), f"{count} FLOAT32 values do not fit")
    refuse(SmallGGUF().array("a.key", STRING, count, b""), f"{count} strings do not fit")
    refuse(SmallGGUF().array("a.key", ARRAY, count, b""), f"{count} arrays do not fit")


@pytest.mark.parametrize("length", [1000, 2**63 - 1, HUGE])
def test_a_string_in_an_array_that_leaves_the_file_is_refused_with_its_number(length: int) -> None:
    payload = struct.pack("<Q", 0) + struct.pack("<Q", length) + bytes(8)
    refuse(SmallGGUF().array("a.key", STRING, 3, payload), r"string [12] of 3")
    refuse(SmallGGUF().array("a.key", STRING, 2, payload), r"string 1 of 2")


def test_arrays_nested_without_end_are_refused() -> None:
    payload = struct.pack("<IQ", ARRAY, 1) * 200
    refuse(SmallGGUF().array("a.key", ARRAY, 1, payload), "nested more than 4 deep")


def test_counts_beyond_all_reason_are_refused_even_when_they_fit() -> None:
    refuse(SmallGGUF().array("a.key", ARRAY, 70_000, struct.pack("<IQ", U32, 0) * 70_000), "70000 arrays are more than")
    halves = SmallGGUF()
    for key in "ab":
        halves.array(key, ARRAY, 40_000, struct.pack("<IQ", U32, 0) * 40_000)
    refuse(halves, "40000 arrays are more than the 25536")
    with pytest.raises(FormatError, match="70000 metadata entries are more than the 65536"):
        parse_header(struct.pack("<4sIQQ", b"GGUF", 3, 0, 70_000) + bytes(1_000_000), "m.gguf")


def test_an_array_of_booleans_is_read() -> None:
    header = parse_header(SmallGGUF().array("a.key", BOOL, 2, b"\1\0").build(), "m.gguf")
    assert header.entries["a.key"].value.tolist() == [True, False]


@pytest.mark.parametrize("alignment", [0, 3, 48])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    error = refuse(SmallGGUF().uint32("general.alignment", alignment), "power of two")
    assert error.where == "m.gguf: key general.alignment"


def test_an_alignment_of_another_type_is_refused() -> None:
    refuse(SmallGGUF().string("general.alignment", b"32"), "uint32 power of two")


@pytest.mark.parametrize(
    ("shape", "type_id", "message"),
    [
        ((1, 1, 1, 1, 1), 0, "5 dimensions"),
        ((4, 0), 0, "axis without values"),
        ((2**40, 2**40), 0, "64-bit"),
        ((2**32, 2**32), 0, "64-bit"),
        ((HUGE,), 0, "64-bit"),
        ((33,), 2, "33 values do not divide into Q4_0 blocks of 32"),
        ((), 2, "1 values do not divide into Q4_0"),
        ((4,), 99, "unknown tensor type id 99"),
        ((32,), 4, "type Q4_2 .* was removed"),
    ],
)
def test_an_impossible_tensor_is_refused(shape: tuple[int, ...], type_id: int, message: str) -> None:
    error = refuse(SmallGGUF().tensor("blk.0.w", shape, type_id, bytes(64)), message)
    assert error.where == "m.gguf: tensor blk.0.w"


def test_a_number_of_dimensions_without_sense_is_refused_before_they_are_read() -> None:
    broken = SmallGGUF().tensor("w", (2,), 0, bytes(8)).build()
    at = broken.index(b"w") + 1
    with pytest.raises(FormatError, match="4294967295 dimensions"):
        parse_header(broken[:at] + b"\xff\xff\xff\xff" + broken[at + 4 :], "m.gguf")


def test_a_tensor_outside_the_file_is_refused() -> None:
    small = SmallGGUF().tensor("a", (8,), 0, bytes(32)).tensor("b", (8,), 0, bytes(32))
    small.offsets[b"b"] = 2**62
    error = refuse(small, "truncated")
    assert error.where == "m.gguf: tensor b"


def test_overlapping_tensors_are_refused() -> None:
    small = SmallGGUF().tensor("a", (16,), 0, bytes(64)).tensor("b", (8,), 0, bytes(32))
    small.offsets[b"b"] = 32
    refuse(small, "overlaps that of tensor b")


def test_a_tensor_off_the_alignment_is_refused() -> None:
    small = SmallGGUF().tensor("a", (8,), 0, bytes(32)).tensor("b", (4,), 0, bytes(32))
    small.offsets[b"b"] = 36
    refuse(small, "not a multiple of the alignment 32")


def test_a_truncated_file_states_the_size_it_should_have_and_the_size_it_has() -> None:
    whole = small_model().build()
    needed = len(whole) - 12  # the last tensor's padding may be missing
    parse_header(whole[:needed], "m.gguf")
    with pytest.raises(FormatError, match=f"truncated: its tensors need {needed} bytes, it has {needed - 1}"):
        parse_header(whole[: needed - 1], "m.gguf")


def test_every_truncation_of_the_header_is_an_error_with_a_hint() -> None:
    header = small_model().header()
    for length in range(len(header)):
        with pytest.raises(FormatError) as caught:
            parse_header(header[:length], "m.gguf")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"lmgg\1\0\0\0", "old GGML file"),
        (b"tjgg\3\0\0\0", "old GGML file"),
        (b"GGML", "old GGML file"),
        (b"PK\3\4....", "PyTorch"),
        (b"\x80\x02}q\0", "pickle"),
        (struct.pack("<Q", 200) + b'{"__metadata__":{}}', "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS pointer"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"PAR1\0\0", "parquet"),
        (b"hello world", "begins with b'hell'"),
        (b"", "has 0 bytes"),
        (b"GG", "has 2 bytes"),
    ],
)
def test_another_kind_of_file_is_recognised(start: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse_header(start, "m.bin")
    assert caught.value.where == "m.bin"
    assert caught.value.hint


def test_a_header_with_nothing_in_it_is_valid() -> None:
    header = parse_header(SmallGGUF().header(), "m.gguf")
    assert (header.version, header.alignment, header.entries, header.tensors) == (3, 32, {}, {})
