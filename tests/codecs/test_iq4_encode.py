"""IQ4_NL and IQ4_XS encoded. What they share with the K-types is in test_k_encode.py."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.codecs.level_quants import IQ4_LEVELS
from entrenar_core.codecs.registry import codec_for


def one_part(values: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and levels of 32 values in IQ4_NL."""
    packed = codec_for("IQ4_NL").encode(values.astype(np.float32))
    return float(packed[:2].view(np.float16)[0]), IQ4_LEVELS[np.concatenate([packed[2:] & 15, packed[2:] >> 4])]


@pytest.mark.parametrize("type_name", ["IQ4_NL", "IQ4_XS"])
@pytest.mark.parametrize("scale", [2.0**-7, -(2.0**-9), 1.0])
def test_values_that_are_levels_are_kept_exactly(type_name: str, scale: float) -> None:
    values = np.tile(IQ4_LEVELS, 32).reshape(2, 256) * np.float32(scale)
    codec = codec_for(type_name)
    assert np.array_equal(codec.decode(codec.encode(values)), values)


def test_every_value_gets_the_nearest_level_of_its_scale() -> None:
    values = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    scale, levels = one_part(values)
    nearest = IQ4_LEVELS[np.abs(values[:, None] - np.float32(scale) * IQ4_LEVELS).argmin(axis=1)]
    assert np.array_equal(levels, nearest)


@pytest.mark.parametrize("seed", range(6))
def test_the_scale_is_nearly_the_best_of_all(seed: int) -> None:
    """Against the least error over a thousand scales of either sign, with the same weights."""
    values = np.random.default_rng(seed).standard_normal(32)
    weights = (values**2).mean() + values**2

    def error(scale: float) -> float:
        levels = IQ4_LEVELS[np.abs(values[:, None] - scale * IQ4_LEVELS).argmin(axis=1)]
        return float((weights * (values - scale * levels) ** 2).sum())

    largest = np.abs(values).max()
    best = min(error(sign * largest / top) for sign in (1, -1) for top in np.linspace(80, 150, 500))
    assert error(one_part(values)[0]) <= 1.25 * best


def test_the_sign_of_the_scale_follows_the_value_of_largest_magnitude() -> None:
    """-127 is the longest level: a long value is worth turning all signs around for."""
    values = np.linspace(-0.8, 0.8, 32)
    values[7] = 1.0
    assert one_part(values)[0] < 0.0 < one_part(-values)[0]
    assert one_part(values)[1][7] == -127.0


@pytest.mark.parametrize("n_blocks", [1, 15, 16, 17])
def test_any_number_of_blocks(n_blocks: int) -> None:
    """Sixteen are worked on at a time."""
    codec = codec_for("IQ4_NL")
    values = np.random.default_rng(0).standard_normal((n_blocks, 32)).astype(np.float32)
    together = codec.encode(values.reshape(1, -1)).reshape(n_blocks, -1)
    assert np.array_equal(together, np.concatenate([codec.encode(row[None]) for row in values]))
