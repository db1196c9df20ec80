"""Draws are SplitMix64's, keyed by what they may depend on."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.merge.random_masks import draws, mask_key, state_at, threshold


def test_draws_are_the_upper_halves_of_splitmix64() -> None:
    """The first outputs of the generator with the seed 1234567, as its authors published them."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draws(1234567, 0, 4).tolist() == [output >> 32 for output in published]


def test_an_element_has_its_draw_wherever_one_begins() -> None:
    assert draws(9, 0, 20)[7:12].tolist() == draws(9, 7, 5).tolist()


def test_states_wrap_around_64_bits() -> None:
    assert state_at(2**64 - 1, 0) == 0x9E3779B97F4A7C15 - 1
    assert 0 <= state_at(2**63, 10**12) < 2**64


def test_keys_differ_by_seed_model_and_tensor() -> None:
    keys = {mask_key(seed, model, name) for seed in (0, 1, 12) for model in (0, 1, 2) for name in ("a", "b")}
    assert len(keys) == 18
    assert mask_key(7, 1, "blk.0.attn_q.weight") == 11436936114092938809, "a seed stays what it was"
    assert mask_key(1, 12, "t") != mask_key(11, 2, "t")


@pytest.mark.parametrize(("density", "bits"), [(0.5, 1 << 31), (1.0, 1 << 32), (3.0, 1 << 32), (2.0**-32, 1)])
def test_a_threshold_is_the_density_of_32_bits(density: float, bits: int) -> None:
    assert threshold(density) == bits


def test_a_density_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        threshold(0.0)


def test_draws_fill_their_range_evenly() -> None:
    """Chi-squared over 256 bins, each 400 times expected: 255 ± 5 standard deviations of √510."""
    counts = np.bincount((draws(mask_key(0, 0, "t"), 0, 102_400) >> np.uint64(24)).astype(np.int64), minlength=256)
    assert counts.size == 256
    assert abs(((counts - 400.0) ** 2 / 400).sum() - 255) < 5 * np.sqrt(510)
