"""One scale for a row or a tensor: what blocks store, what comes back, and how far off it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.quant.granularity import (
    CLIP_RATIOS,
    SHARED_TYPES,
    RowScaleEncoder,
    SharedScaleEncoder,
    granular_codec,
    row_scales,
    tensor_encoder,
)

TYPES = tuple(SHARED_TYPES)
SYMMETRIC = tuple(name for name, kind in SHARED_TYPES.items() if not kind.has_minimum)
HEAD_BYTES = {name: 4 if kind.has_minimum else 2 for name, kind in SHARED_TYPES.items()}


def decoded(type_name: str, raw: np.ndarray) -> np.ndarray:
    """The values that gguf-py finds."""
    return dequantize(raw, GGMLQuantizationType[type_name])


def rows_of(seed: int, n_rows: int = 6, n_columns: int = 96) -> np.ndarray:
    """Rows of various sizes and shapes: normal, one-sided, with an outlier, zero, constant."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_rows, n_columns)).astype(np.float32)
    rows *= np.exp2(rng.integers(-6, 6, (n_rows, 1))).astype(np.float32)
    rows[1] = np.abs(rows[1])
    rows[2, rng.integers(n_columns)] *= 20
    rows[3] = 0
    rows[4] = rows[4, 0]
    return rows


def in_pieces(rows: np.ndarray, size: int = 2) -> Callable[[Callable[[np.ndarray], Any]], list[Any]]:
    return lambda function: [function(rows[start : start + size]) for start in range(0, len(rows), size)]


@pytest.mark.parametrize("type_name", TYPES)
def test_every_block_of_a_row_stores_the_same_scale(type_name: str) -> None:
    rows = rows_of(0)
    blocks = RowScaleEncoder(type_name).encode(rows).reshape(len(rows), 3, -1)
    heads = blocks[:, :, : HEAD_BYTES[type_name]]
    assert (heads == heads[:, :1]).all()
    assert len(np.unique(heads[:, 0], axis=0)) == len(rows)


@pytest.mark.parametrize("type_name", TYPES)
def test_every_block_of_a_tensor_stores_the_same_scale(type_name: str) -> None:
    rows = rows_of(0)
    encoder = tensor_encoder(type_name, in_pieces(rows))
    heads = encoder.encode(rows).reshape(len(rows) * 3, -1)[:, : HEAD_BYTES[type_name]]
    assert len(np.unique(heads, axis=0)) == 1
    assert heads[0, :2].view("<f2")[0] == encoder.scale


@pytest.mark.property
@pytest.mark.parametrize("type_name", TYPES)
@given(seed=st.integers(0, 2**32 - 1))
def test_values_come_back_within_half_a_scale(type_name: str, seed: int) -> None:
    rows = rows_of(seed)
    scales = np.abs(row_scales(rows, type_name).scales)[:, None]
    errors = np.abs(decoded(type_name, RowScaleEncoder(type_name).encode(rows)) - rows)
    assert (errors <= scales / 2 * (1 + 1e-5) + 1e-6 * np.abs(rows)).all()
    encoder = tensor_encoder(type_name, in_pieces(rows))
    errors = np.abs(decoded(type_name, encoder.encode(rows)) - rows)
    assert (errors <= abs(encoder.scale) / 2 * (1 + 1e-5) + 1e-6 * np.abs(rows)).all()


@pytest.mark.property
@pytest.mark.parametrize("type_name", SYMMETRIC)
@given(seed=st.integers(0, 2**32 - 1))
def test_symmetric_types_map_zero_to_zero(type_name: str, seed: int) -> None:
    rows = rows_of(seed)
    rows[:, ::3] = 0
    for encoder in (RowScaleEncoder(type_name), tensor_encoder(type_name, in_pieces(rows))):
        assert (decoded(type_name, encoder.encode(rows))[:, ::3] == 0).all()


@pytest.mark.property
@pytest.mark.parametrize("type_name", TYPES)
@given(seed=st.integers(0, 2**32 - 1))
def test_encoding_again_changes_nothing(type_name: str, seed: int) -> None:
    """The scale of values that were quantized may differ, but with the same scale the codes do not."""
    rows = rows_of(seed)
    encoder = tensor_encoder(type_name, in_pieces(rows))
    raw = encoder.encode(rows)
    assert np.array_equal(encoder.encode(decoded(type_name, raw)), raw)


@pytest.mark.parametrize("type_name", TYPES)
def test_fewer_weights_for_a_scale_make_a_smaller_error(type_name: str) -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((64, 512)) * np.exp2(rng.integers(-2, 3, (64, 1)))).astype(np.float32)
    every = rows.reshape(-1, 32), rows, rows
    encoders = RowScaleEncoder(type_name), RowScaleEncoder(type_name), tensor_encoder(type_name, in_pieces(rows, 16))
    block, channel, tensor = (
        np.square(decoded(type_name, encoder.encode(values)) - values).mean()
        for encoder, values in zip(encoders, every, strict=True)
    )
    assert block < channel < tensor


@pytest.mark.parametrize("type_name", SYMMETRIC)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_side_of_the_larger_values_has_one_level_more(type_name: str, sign: int) -> None:
    row = sign * np.linspace(0, 1, 32, dtype=np.float32)[None, :]
    scale = row_scales(row, type_name).scales[0]
    assert np.sign(scale) == (-sign if type_name != "Q8_0" else 1)
    assert abs(scale) == pytest.approx(1 / -SHARED_TYPES[type_name].least, rel=2e-3)
    assert decoded(type_name, RowScaleEncoder(type_name).encode(row))[0, -1] == pytest.approx(sign, rel=2e-3)


@pytest.mark.parametrize("type_name", TYPES)
def test_the_scale_is_rounded_away_from_zero(type_name: str) -> None:
    """So the ends of the range are inside it: float16 cannot hold 1/7, 1/15 or 1/127."""
    row = np.linspace(-1, 1, 64, dtype=np.float32)[None, :] * np.float32(1.001)
    scales = row_scales(row, type_name)
    kind = SHARED_TYPES[type_name]
    ends = np.sort([kind.least * scales.scales[0], kind.most * scales.scales[0]]) + scales.minima[0]
    assert ends[0] <= row[0, 0]
    assert ends[1] >= row[0, -1] * (1 - 1e-7)
    assert scales.scales[0] == np.float16(scales.scales[0])


@pytest.mark.parametrize("type_name", TYPES)
def test_a_percentile_leaves_outliers_out(type_name: str) -> None:
    rows = np.random.default_rng(2).uniform(-1, 1, (4, 1024)).astype(np.float32)
    rows[:, 7], rows[:, 9] = 50, -50
    for encoder in (
        RowScaleEncoder(type_name, percentile=99.5),
        tensor_encoder(type_name, in_pieces(rows), percentile=99.5),
    ):
        values = decoded(type_name, encoder.encode(rows))
        assert np.abs(values).max() < 1.15
        assert np.abs(np.delete(values - rows, (7, 9), axis=1)).max() < 0.09


@pytest.mark.parametrize("type_name", ["Q8_0", "Q5_1"])
def test_the_whole_is_the_hundredth_percentile(type_name: str) -> None:
    rows = rows_of(3)
    assert np.array_equal(RowScaleEncoder(type_name, 100.0).encode(rows), RowScaleEncoder(type_name).encode(rows))
    whole, clipped = tensor_encoder(type_name, in_pieces(rows)), tensor_encoder(type_name, in_pieces(rows), None, 100.0)
    assert (whole.scale, whole.minimum) == (clipped.scale, clipped.minimum)


@pytest.mark.parametrize("type_name", TYPES)
def test_an_importance_lowers_the_weighted_error(type_name: str) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_t(3, (8, 256)).astype(np.float32)
    importance = rng.random(256).astype(np.float32) ** 4
    pieces = in_pieces(rows)
    for plain, weighed in (
        (RowScaleEncoder(type_name).encode(rows), RowScaleEncoder(type_name).encode(rows, importance)),
        (
            tensor_encoder(type_name, pieces).encode(rows),
            tensor_encoder(type_name, pieces, importance).encode(rows),
        ),
    ):
        before, after = (
            (importance * np.square(decoded(type_name, raw).astype(np.float64) - rows)).sum()
            for raw in (plain, weighed)
        )
        assert after < 0.99 * before if SHARED_TYPES[type_name].most < 127 else after <= before


def test_the_ratio_is_the_best_of_those_that_are_tried() -> None:
    """By brute force, with ranges clipped by hand and gguf-py's decoder."""
    rng = np.random.default_rng(6)
    row = rng.standard_normal((1, 128)).astype(np.float32)
    importance = rng.random(128).astype(np.float32)
    errors = {}
    for ratio in CLIP_RATIOS:
        limits = ratio * row.min(), ratio * row.max()
        scale = float(abs(row_scales(np.clip(row, *limits), "Q8_0").scales[0]))
        raw = SharedScaleEncoder("Q8_0", scale).encode(row)
        errors[scale] = (importance * np.square(decoded("Q8_0", raw).astype(np.float64) - row)).sum()
    assert row_scales(row, "Q8_0", importance).scales[0] == min(errors, key=lambda scale: errors[scale])


def test_pieces_and_threads_do_not_matter_to_a_tensor() -> None:
    rows = rows_of(7, n_rows=12)
    importance = np.random.default_rng(1).random(96).astype(np.float32)
    found = [tensor_encoder("Q4_1", in_pieces(rows, size), importance, 99.0) for size in (1, 5, 12)]
    assert len({(one.scale, one.minimum) for one in found}) == 1


def test_bytes_go_where_they_are_wanted() -> None:
    rows = rows_of(8)
    out = np.zeros((6, 3 * 18), np.uint8)
    assert RowScaleEncoder("Q4_0").encode(rows, out=out) is out
    assert np.array_equal(out, RowScaleEncoder("Q4_0").encode(rows.reshape(2, 3, 96)).reshape(6, -1))
    assert np.array_equal(RowScaleEncoder("Q4_0").decode(out), decoded("Q4_0", out))


def test_a_block_is_the_codec_itself() -> None:
    assert granular_codec("Q4_0", "block") is codec_for("Q4_0")
    assert isinstance(granular_codec("Q4_0", "per_channel"), RowScaleEncoder)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_percentile_of_rows_is_that_of_each_row(type_name: str) -> None:
    """The scales of a row that is clipped beforehand, by numpy's percentile of values or (symmetric) of magnitudes."""
    rows = rows_of(11, n_columns=160)
    found = granular_codec(type_name, "per_channel", 90.0).encode(rows)
    for row, packed in zip(rows, found, strict=True):
        if type_name in SYMMETRIC:
            limit = np.percentile(np.abs(row), 90, method="inverted_cdf")
            ends = (-limit, limit)
        else:
            ends = tuple(np.sign(end) * np.percentile(end * row, 90, method="inverted_cdf") for end in (-1, 1))
        clipped = np.clip(row, *ends).astype(np.float32)
        head = 2 if type_name in SYMMETRIC else 4
        assert np.array_equal(packed[:head], RowScaleEncoder(type_name).encode(clipped[None])[0, :head])


def test_a_decoded_tensor_goes_where_it_is_wanted() -> None:
    encoder, out = SharedScaleEncoder("Q8_0", 0.5), np.empty((6, 96), np.float32)
    packed = np.empty((6, 3 * 34), np.uint8)
    assert encoder.encode(rows_of(8), out=packed) is packed
    assert encoder.decode(packed, out) is out
    stacked = encoder.encode(rows_of(8).reshape(2, 3, 96))
    assert np.array_equal(stacked.reshape(6, -1), packed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    rows = rows_of(9)
    rows[5, 5] = bad
    for encoder in (RowScaleEncoder("Q4_0"), SharedScaleEncoder("Q4_0", 0.5)):
        with pytest.raises(FormatError, match="has no place on a scale"):
            encoder.encode(rows)


def test_a_scale_beyond_float16_is_refused() -> None:
    with pytest.raises(FormatError, match="does not fit a block of Q8_0"):
        RowScaleEncoder("Q8_0").encode(np.full((1, 32), 1e7, np.float32))


def test_types_with_scales_of_their_own_are_refused() -> None:
    with pytest.raises(FormatError, match="blocks of Q4_K cannot share a scale"):
        RowScaleEncoder("Q4_K")


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="does not divide into Q4_0 blocks"):
        RowScaleEncoder("Q4_0").encode(np.zeros((2, 40), np.float32))


def test_numbers_that_float16_does_not_hold_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="must be float16 numbers"):
        SharedScaleEncoder("Q4_0", 0.1)
    with pytest.raises(ValueError, match="has no minimum"):
        SharedScaleEncoder("Q4_0", 0.5, 1.0)


def test_an_importance_that_does_not_fit_is_refused() -> None:
    rows = rows_of(1)
    with pytest.raises(TypeError, match=r"float32 \[96\]"):
        tensor_encoder("Q4_0", in_pieces(rows), np.ones(32, np.float32))
    for encoder in (RowScaleEncoder("Q4_0"), SharedScaleEncoder("Q4_0", 0.5)):
        with pytest.raises(FormatError, match="negative or not finite"):
            encoder.encode(rows, np.full(96, -1, np.float32))
        with pytest.raises(TypeError, match=r"float32 \[96\]"):
            encoder.encode(rows, np.ones(6, np.float32))


def test_no_rows_are_no_bytes() -> None:
    assert RowScaleEncoder("Q4_0").encode(np.zeros((0, 64), np.float32)).shape == (0, 36)
    assert SharedScaleEncoder("Q4_0", 1.0).encode(np.zeros((0, 64), np.float32)).shape == (0, 36)
