"""Tensors encoded piece by piece: the bytes of the codec, whatever the cut, with the error of what was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, TrainingError
from entrenar_core.quant import encoding
from entrenar_core.quant.encoding import Encoding, TensorEncoding, plain_encodings
from entrenar_core.quant.error_sums import ErrorSums, measure
from entrenar_core.quant.granularity import SharedScaleEncoder
from entrenar_core.threads import Threads


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def encode(values: np.ndarray, how: Encoding, n_threads: int = 2, **options: Any) -> tuple[bytes, ErrorSums]:
    work = TensorEncoding((len(values), values.shape[1]), lambda rows: values[rows], how, **options)
    threads = Threads(n_threads)
    try:
        return b"".join(piece.tobytes() for piece in work.pieces(threads)), work.sums
    finally:
        threads.close()


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("piece_values", [1, 100, 64 * 5, 1 << 18])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_bytes_are_those_of_the_codec_however_they_are_cut(
    type_name: str, piece_values: int, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PIECE_VALUES", piece_values)
    values, codec = drawn(37, 64), codec_for(type_name)
    found, sums = encode(values, Encoding(type_name), n_threads)
    expected = codec.encode(values)
    assert found == expected.tobytes()
    exact = measure(values, codec.decode(expected))
    assert sums.count == values.size
    assert sums.squared == pytest.approx(exact.squared, rel=1e-9)
    assert sums.largest == exact.largest


def test_the_change_is_measured_against_the_rows_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_VALUES", 64)
    values = drawn(9, 32)
    before = values - np.arange(9, dtype=np.float32)[:, None]
    _, sums = encode(values, Encoding("Q8_0"), start=lambda rows: before[rows])
    assert sums.changed == pytest.approx(32 * sum(row**2 for row in range(9)), rel=1e-5)


def test_errors_are_summed_up_only_where_they_are_asked_for() -> None:
    _, sums = encode(drawn(4, 32), Encoding("Q4_0"), is_measured=False)
    assert sums == ErrorSums()


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("weighed", [False, True])
def test_rows_and_tensors_share_a_scale_however_they_are_cut(
    granularity: str, weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PIECE_VALUES", 128)
    values = drawn(21, 64)
    importance = np.linspace(0, 2, 64, dtype=np.float32) if weighed else None
    found, sums = encode(values, Encoding("Q4_0", importance, granularity))
    scales = np.frombuffer(found, np.uint8).reshape(21, 2, 18)[:, :, :2].copy().view("<f2")[:, :, 0]
    assert len(np.unique(scales)) == (1 if granularity == "per_tensor" else 21)
    assert (scales[:, 0] == scales[:, 1]).all()
    decoded = codec_for("Q4_0").decode(np.frombuffer(found, np.uint8).reshape(21, -1))
    assert sums.largest == np.abs(decoded - values).max()
    with_one_piece = encoding.PIECE_VALUES * 100
    monkeypatch.setattr(encoding, "PIECE_VALUES", with_one_piece)
    assert encode(values, Encoding("Q4_0", importance, granularity))[0] == found


def test_an_encoder_that_is_ready_is_used_as_it_is() -> None:
    values = drawn(20, 32)
    found, _ = encode(values, Encoding("Q8_0", encoder=SharedScaleEncoder("Q8_0", 0.5)))
    assert found == SharedScaleEncoder("Q8_0", 0.5).encode(values).tobytes()


@pytest.mark.parametrize("granularity", ["block", "per_channel", "per_tensor"])
def test_values_that_are_not_finite_are_refused(granularity: str) -> None:
    values = drawn(5, 32)
    values[4, 3] = np.inf
    with pytest.raises(TrainingError, match="not finite; nothing is written"):
        encode(values, Encoding("Q8_0", granularity=granularity))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # of plain kernels: 1e8 is no float16
def test_the_first_value_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(50, 32)
    values[40, 7] = 1e8
    values[48, 9] = 1e9
    for piece_values in (32, 96, 1 << 18):
        monkeypatch.setattr(encoding, "PIECE_VALUES", piece_values)
        with pytest.raises(FormatError, match=r"1e\+08 does not fit a block of Q8_0 \(row 40, column 7\)"):
            encode(values, Encoding("Q8_0"), n_threads=3)


def test_a_type_for_each_name_is_the_plain_way() -> None:
    assert plain_encodings({"a": "F16", "b": "Q4_0"}) == {"a": Encoding("F16"), "b": Encoding("Q4_0")}
