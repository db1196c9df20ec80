"""DARE: what is drawn, what makes up for it, and that draws depend on nothing but seed, model and tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.merge.random_masks import draws, mask_key, threshold
from tests.merge.merging import changes_merged, floats, merged, merged_in_pieces
from tests.merge.oracle import plain_sum, voted_sum

METHODS = ("dare_linear", "dare_ties")


def mask(shape: tuple[int, ...], density: float, model: int = 0, seed: int = 0, name: str = "t") -> np.ndarray:
    """Which entries are kept, from the definition of the draws alone."""
    word = (1 << 64) - 1
    state, kept = mask_key(seed, model, name), []
    for _ in range(int(np.prod(shape))):
        state = (state + 0x9E3779B97F4A7C15) & word
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        kept.append((z ^ (z >> 31)) >> 32 < round(density * 2**32))
    return np.array(kept).reshape(shape)


@pytest.mark.parametrize("method", METHODS)
def test_a_density_of_one_keeps_everything_as_it_is(method: str) -> None:
    change = floats(4, -3, 2, 0.5)
    for rescale in ("l1", "density", None):
        assert changes_merged(method, [change], rescale=rescale).tolist() == change.tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("density", [0.0, -1.0, float("nan")])
def test_a_density_that_keeps_nothing_is_refused(method: str, density: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        changes_merged(method, [floats(1, 2)], density=[density])


def test_what_is_kept_is_divided_by_the_density(rng: np.random.Generator) -> None:
    change = rng.standard_normal((4, 5)).astype(np.float32)
    found = changes_merged("dare_linear", [change], density=[0.5], rescale="density")
    np.testing.assert_array_equal(found, np.where(mask((4, 5), 0.5), 2 * change, 0))


def test_or_its_l1_norm_is_restored(rng: np.random.Generator) -> None:
    change = rng.standard_normal((4, 50)).astype(np.float32)
    found = changes_merged("dare_linear", [change], density=[0.3], rescale="l1")
    assert ((found != 0) == mask((4, 50), 0.3)).all()
    assert np.abs(found).sum() == pytest.approx(np.abs(change).sum(), rel=1e-5)


def test_without_rescale_it_is_left_alone(rng: np.random.Generator) -> None:
    change = rng.standard_normal((4, 5)).astype(np.float32)
    found = changes_merged("dare_linear", [change], density=[0.5])
    np.testing.assert_array_equal(found, np.where(mask((4, 5), 0.5), change, 0))


def test_where_nothing_is_kept_nothing_is_made_up_for() -> None:
    assert changes_merged("dare_linear", [floats(1, -2)], density=[1e-12], rescale="l1").tolist() == [0, 0]
    assert changes_merged("dare_ties", [floats(0, 0)], density=[0.5], rescale="l1").tolist() == [0, 0]


def test_seed_model_and_tensor_have_masks_of_their_own() -> None:
    ones = np.ones(400, np.float32)
    plain = changes_merged("dare_linear", [ones], density=[0.5])
    assert (changes_merged("dare_linear", [ones], density=[0.5]) == plain).all()
    assert 100 < (changes_merged("dare_linear", [ones], density=[0.5], seed=1) != plain).sum() < 300
    assert 100 < (changes_merged("dare_linear", [ones], density=[0.5], name="u") != plain).sum() < 300
    second = changes_merged("dare_linear", [0 * ones, ones], density=[0.5, 0.5])
    assert 100 < (second != plain).sum() < 300


@pytest.mark.parametrize("density", [0.01, 0.25, 0.5, 0.9])
def test_the_share_that_is_kept_is_the_density(density: float) -> None:
    """Within five standard deviations of the binomial distribution, for each of 40 keys and all together."""
    n = 20_000
    shares = []
    for seed in range(40):
        kept = draws(mask_key(seed, 0, "blk.0.ffn_up.weight"), 12_345, n) < np.uint64(threshold(density))
        shares.append(kept.mean())
    deviation = np.sqrt(density * (1 - density) / n)
    assert np.abs(np.array(shares) - density).max() < 5 * deviation
    assert abs(np.mean(shares) - density) < 5 * deviation / np.sqrt(40)


def test_neighbours_and_models_are_drawn_independently() -> None:
    n = 100_000
    first, second = (draws(mask_key(0, model, "t"), 0, n) / 2**32 - 0.5 for model in (0, 1))
    for other in (second, np.roll(first, 1), np.roll(first, 2048), np.roll(second, 1)):
        assert abs((first * other).mean() * 12) < 5 / np.sqrt(n)


def test_the_expected_result_is_the_merge_without_dropping() -> None:
    change = floats(4, -3, 2, 0.5)
    rounds = 4000
    mean = np.zeros(4)
    for seed in range(rounds):
        mean += changes_merged("dare_linear", [change], density=[0.5], rescale="density", seed=seed) / rounds
    np.testing.assert_array_less(np.abs(mean - change), 5 * np.abs(change) / np.sqrt(rounds))


@pytest.mark.property
@given(
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(METHODS),
    rows=st.integers(1, 6),
    n_models=st.integers(1, 4),
    rescale=st.sampled_from(["l1", "density", None]),
    normalize=st.booleans(),
)
def test_it_is_the_masked_sum_however_the_tensor_is_cut(
    seed: int, method: str, rows: int, n_models: int, rescale: str | None, normalize: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape = (6, 5)
    base, *models = rng.standard_normal((1 + n_models, *shape)).astype(np.float32)
    densities = [float(density) for density in rng.choice([0.1, 0.5, 0.9, 1.0], n_models)]
    weights = [float(weight) for weight in rng.uniform(0.1, 1, n_models)]
    options = {"density": densities, "weight": weights, "normalize": normalize, "rescale": rescale, "seed": seed}
    whole = merged(method, models, base, **options)
    np.testing.assert_array_equal(merged_in_pieces(method, models, base, rows=rows, order=rng, **options), whole)

    changes = []
    for index, (model, density) in enumerate(zip(models, densities, strict=True)):
        change = model - base
        kept = np.where(mask(shape, density, index, seed), change, np.float32(0))
        after = np.abs(kept).sum(dtype=np.float64)
        by_norm = np.abs(change).sum(dtype=np.float64) / after if after else 1.0
        gain = {"l1": by_norm, "density": 1 / density, None: 1.0}[rescale]
        changes.append((kept, gain))
    scaled = [np.float32(gain) * kept for kept, gain in changes]
    joined = voted_sum(scaled, weights, normalize) if method == "dare_ties" else plain_sum(scaled, weights, normalize)
    np.testing.assert_allclose(whole, base + joined, rtol=2e-5, atol=2e-5)
