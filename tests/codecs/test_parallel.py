"""Whole matrices on several threads: the same bytes as on one, and errors that name the row of the whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from entrenar_core.codecs import parallel
from entrenar_core.codecs.parallel import convert_rows, decode_rows, encode_rows
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.threads import Threads
from tests.codecs.blocks import random_rows

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[Threads]:
    threads = Threads(request.param)
    yield threads
    threads.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of 64 a piece, so that small matrices have many."""
    monkeypatch.setattr(parallel, "PIECE_VALUES", 3 * 64)
    monkeypatch.setattr(parallel, "SHARE_VALUES", 3 * 64)


@pytest.mark.parametrize("type_name", TYPES)
def test_bytes_and_values_are_those_of_the_codec(type_name: str, threads: Threads) -> None:
    codec, values = codec_for(type_name), random_rows(20, 64)
    packed = encode_rows(codec, values, threads)
    assert np.array_equal(packed, codec.encode(values))
    assert np.array_equal(decode_rows(codec, packed, threads), codec.decode(packed))


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("source", ["F32", "F16", "Q4_1"])
def test_a_conversion_is_decoding_and_encoding(source: str, target: str, threads: Threads) -> None:
    packed = codec_for(source).encode(random_rows(20, 64) / 64)
    converted = convert_rows(codec_for(source), packed, codec_for(target), threads)
    same = codec_for(target).encode(codec_for(source).decode(packed))
    assert np.array_equal(converted, packed if source == target else same)


def test_results_go_where_they_are_told(threads: Threads) -> None:
    codec, values = codec_for("Q8_0"), random_rows(8, 64).reshape(2, 4, 64)
    packed = np.empty((2, 4, 68), np.uint8)
    assert encode_rows(codec, values, threads, out=packed) is packed
    back = np.empty_like(values)
    assert decode_rows(codec, packed, threads, out=back) is back
    converted = np.empty((2, 4, 36), np.uint8)
    assert convert_rows(codec, packed, codec_for("Q4_0"), threads, out=converted) is converted
    assert np.array_equal(converted, codec_for("Q4_0").encode(back))


def test_a_row_longer_than_a_piece_and_a_single_row_are_fine(threads: Threads) -> None:
    codec, values = codec_for("Q4_0"), random_rows(1, 640)[0]
    packed = encode_rows(codec, values, threads)
    assert np.array_equal(packed, codec.encode(values))
    assert (
        convert_rows(codec, packed, codec_for("F32"), threads).view(np.float32).tolist()
        == codec.decode(packed).tolist()
    )


def test_no_rows_give_no_bytes(threads: Threads) -> None:
    codec = codec_for("Q4_0")
    assert encode_rows(codec, np.empty((0, 64), np.float32), threads).shape == (0, 36)
    assert decode_rows(codec, np.empty((0, 36), np.uint8), threads).shape == (0, 64)
    assert convert_rows(codec, np.empty((0, 36), np.uint8), codec_for("F16"), threads).shape == (0, 128)


def test_the_first_of_several_bad_values_is_named_with_its_row(threads: Threads) -> None:
    values = random_rows(20, 64)
    values[17, 3], values[11, 40], values[11, 41] = np.inf, np.nan, np.inf
    with pytest.raises(FormatError, match=r"nan does not fit a block of Q5_1 \(row 11, column 40\)"):
        encode_rows(codec_for("Q5_1"), values, threads)
    with pytest.raises(FormatError, match=r"nan does not fit a block of Q4_0 \(row 11, column 40\)"):
        convert_rows(codec_for("F32"), values.view(np.uint8), codec_for("Q4_0"), threads)


def test_a_width_that_the_target_cannot_hold_is_refused_before_any_work(threads: Threads) -> None:
    raw = np.zeros((2, 40), np.uint8)
    with pytest.raises(FormatError, match="10 values does not divide into Q4_0 blocks of 32"):
        convert_rows(codec_for("F32"), raw, codec_for("Q4_0"), threads)
