"""Tensors encoded piece by piece: the bytes of the codec, whatever the cut, with the error of what was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, TrainingError
from entrenar_core.quant import encoding
from entrenar_core.quant.encoding import Encoding, TensorEncoding, plain_encodings
from entrenar_core.quant.rounding import ErrorSums
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
    exact = ErrorSums.of(values, codec.decode(expected))
    assert sums.n_values == values.size
    assert sums.error_squares == pytest.approx(exact.error_squares, rel=1e-9)
    assert sums.largest == exact.largest


def test_the_change_is_measured_against_the_rows_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_VALUES", 64)
    values = drawn(9, 32)
    before = values - np.arange(9, dtype=np.float32)[:, None]
    _, sums = encode(values, Encoding("Q8_0"), start=lambda rows: before[rows])
    assert sums.change_squares == pytest.approx(32 * sum(row**2 for row in range(9)), rel=1e-5)


def test_errors_are_summed_up_only_where_they_are_asked_for() -> None:
    _, sums = encode(drawn(4, 32), Encoding("Q4_0"), is_measured=False)
    assert sums == ErrorSums()


class Recording:
    """Encodes as Q8_0 and keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def encode(self, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        self.seen.append(values.shape)
        return codec_for("Q8_0").encode(values * 0, out=out)


def test_an_encoder_of_its_own_sees_the_whole_tensor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE_VALUES", 64)
    encoder, values = Recording(), drawn(20, 32)
    found, sums = encode(values, Encoding("Q8_0", encoder=encoder))
    assert encoder.seen == [(20, 32)]
    assert found == bytes(20 * 34)
    assert sums.error_squares == pytest.approx(sums.squares, rel=1e-6), "the error is that of what was written"


@pytest.mark.parametrize("encoder", [None, Recording()], ids=["codec", "encoder"])
def test_values_that_are_not_finite_are_refused(encoder: Recording | None) -> None:
    values = drawn(5, 32)
    values[4, 3] = np.inf
    with pytest.raises(TrainingError, match="not finite; nothing is written"):
        encode(values, Encoding("Q8_0", encoder=encoder))


def test_values_that_do_not_fit_the_type_are_refused() -> None:
    with pytest.raises(FormatError, match="does not fit a block of Q8_0"):
        encode(drawn(5, 32) * np.float32(1e8), Encoding("Q8_0"))


def test_a_type_for_each_name_is_the_plain_way() -> None:
    assert plain_encodings({"a": "F16", "b": "Q4_0"}) == {"a": Encoding("F16"), "b": Encoding("Q4_0")}
