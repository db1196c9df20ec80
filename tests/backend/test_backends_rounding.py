"""Fake quantization on every backend: the codec's numbers bit for bit, whatever the threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend import cpu_rounding
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs.registry import codec_for
from entrenar_core.codecs.round_trip import in_range
from entrenar_core.errors import FormatError
from tests.backend.agreement import on
from tests.codecs.blocks import random_rows


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "F16", "BF16", "F32"])
@pytest.mark.parametrize("shape", [(1, 32), (7, 64), (130, 96)])
def test_values_are_those_of_the_codec(
    backend: Any, type_name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_rounding, "PIECE_VALUES", 200)
    monkeypatch.setattr(cpu_rounding, "FLAGGED_VALUES", 130)
    values, codec = random_rows(*shape), codec_for(type_name)
    out, inside = backend.empty(shape), backend.zeros(shape, np.bool_)
    raw = codec.encode(values)
    assert backend.fake_quantize(on(backend, values), codec, out=out, inside=inside) is out
    np.testing.assert_array_equal(backend.to_host(out), codec.decode(raw))
    np.testing.assert_array_equal(backend.to_host(inside), in_range(codec, raw, values))
    fresh = backend.fake_quantize(on(backend, values), codec)
    np.testing.assert_array_equal(backend.to_host(fresh), codec.decode(raw))
    assert fresh.dtype == backend.dtype


def test_a_float64_backend_rounds_the_float32_number() -> None:
    values = random_rows(2, 32)
    rounded = ReferenceBackend(np.float64).fake_quantize(values.astype(np.float64), codec_for("Q4_0"))
    assert rounded.dtype == np.float64
    np.testing.assert_array_equal(rounded, codec_for("Q4_0").decode(codec_for("Q4_0").encode(values)))


def test_a_value_that_does_not_fit_is_an_error_on_every_backend(backend: Any) -> None:
    values = np.ones((4, 32), np.float32)
    values[2, 3] = np.nan
    with pytest.raises(FormatError, match="nan"):
        backend.fake_quantize(on(backend, values), codec_for("Q4_0"))


def test_flags_keep_or_drop(backend: Any, rng: np.random.Generator) -> None:
    array, kept = rng.standard_normal((5, 64)).astype(np.float32), rng.random((5, 64)) < 0.5
    expected, flags = np.where(kept, array, 0), on(backend, kept)
    np.testing.assert_array_equal(backend.to_host(backend.keep_where(on(backend, array), flags)), expected)
    target = on(backend, array).copy()
    assert backend.keep_where(target, flags, out=target) is target
    np.testing.assert_array_equal(backend.to_host(target), expected)


def test_arguments_that_do_not_fit_are_refused() -> None:
    backend, values = CpuBackend(1), np.zeros((2, 32), np.float32)
    with pytest.raises(ValueError, match=r"\(32,\) is not \[out, in\]"):
        backend.fake_quantize(values[0], codec_for("Q4_0"))
    with pytest.raises(ValueError, match="flags float32"):
        backend.fake_quantize(values, codec_for("Q4_0"), inside=values)
    with pytest.raises(ValueError, match="shapes"):
        backend.fake_quantize(values, codec_for("Q4_0"), out=np.zeros((1, 32), np.float32))
    with pytest.raises(ValueError, match=r"flags bool \(1, 32\) do not fit \(2, 32\)"):
        backend.keep_where(values, np.ones((1, 32), np.bool_))
    backend.close()
