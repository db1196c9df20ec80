"""DELLA: probabilities rise with the rank in the row, and draws depend on nothing but seed, model and tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.merge.random_masks import draws, mask_key
from tests.merge.merging import changes_merged, floats, merged, merged_in_pieces
from tests.merge.oracle import plain_sum, voted_sum

METHODS = ("della", "della_linear")


def probabilities(change: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """From a sort of each row; of equal ones the first is the larger."""
    found = np.empty(change.shape)
    rising = np.linspace(density - epsilon, density + epsilon, change.shape[1])
    for row in range(len(change)):
        order = np.argsort(-np.abs(change[row]), kind="stable")[::-1]
        found[row, order] = rising
    return found


def test_with_the_widest_epsilon_the_larger_of_two_is_kept() -> None:
    """Probabilities of one in a million and one less than that; the rank is that in the row."""
    change = floats(3, 1, 2, 9, -5, 4, 1, -1, 0, 0.5).reshape(5, 2)
    found = changes_merged("della_linear", [change], density=[0.5], epsilon=[0.499999])
    assert found.tolist() == [[3, 0], [0, 9], [-5, 0], [1, 0], [0, 0.5]], "of equal ones the first is the larger"


def test_a_row_of_one_entry_has_the_density() -> None:
    ones = np.ones((1000, 1), np.float32)
    share = (changes_merged("della_linear", [ones], density=[0.3], epsilon=[0.2]) != 0).mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.parametrize("method", METHODS)
def test_a_density_of_one_keeps_everything(method: str) -> None:
    change = floats(4, -3, 2, 0.5)
    assert changes_merged(method, [change], rescale="l1").tolist() == change.tolist()


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.1, 0.15), (0.9, 0.1), (0.95, 0.1), (0.5, -0.5)])
def test_probabilities_of_zero_or_one_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        changes_merged("della", [floats(1, 2)], density=[density], epsilon=[epsilon])


def test_a_density_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        changes_merged("della", [floats(1, 2)], density=[0.0], epsilon=[0.0])


def test_large_entries_are_kept_more_often() -> None:
    """Within five standard deviations over 2000 seeds."""
    change, rounds = floats(1, 2, 3, 4, 5), 2000
    kept = np.zeros(5)
    for seed in range(rounds):
        kept += changes_merged("della_linear", [change], density=[0.5], epsilon=[0.4], seed=seed) != 0
    assert np.abs(kept / rounds - [0.1, 0.3, 0.5, 0.7, 0.9]).max() < 5 * 0.5 / np.sqrt(rounds)


def test_divided_by_its_probability_each_entry_is_kept_on_average() -> None:
    change, rounds = floats(1, 2, 3), 2000
    mean = np.zeros(3)
    for seed in range(rounds):
        options = {"density": [0.5], "epsilon": [0.2], "rescale": "density", "seed": seed}
        mean += changes_merged("della_linear", [change], **options) / rounds
    np.testing.assert_array_less(np.abs(mean - change), 5 * change * np.sqrt(1 / 0.3) / np.sqrt(rounds))


@pytest.mark.property
@given(
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(METHODS),
    rows=st.integers(1, 6),
    n_models=st.integers(1, 3),
    rescale=st.sampled_from(["l1", "density", None]),
    normalize=st.booleans(),
)
def test_it_is_the_masked_sum_however_the_tensor_is_cut(
    seed: int, method: str, rows: int, n_models: int, rescale: str | None, normalize: bool
) -> None:
    rng = np.random.default_rng(seed)
    base, *models = rng.integers(-3, 4, (1 + n_models, 6, 5)).astype(np.float32)
    densities = [float(density) for density in rng.choice([0.2, 0.5, 0.8], n_models)]
    options = {"density": densities, "epsilon": [0.15] * n_models, "normalize": normalize, "rescale": rescale}
    whole = merged(method, models, base, seed=seed, **options)
    pieces = merged_in_pieces(method, models, base, rows=rows, order=rng, seed=seed, **options)
    np.testing.assert_array_equal(pieces, whole)

    changes = []
    for index, (model, density) in enumerate(zip(models, densities, strict=True)):
        change = model - base
        chances = probabilities(change, density, 0.15)
        bits = draws(mask_key(seed, index, "t"), 0, 30).reshape(6, 5)
        kept = np.where(bits / 2**32 < chances, change, np.float32(0))
        after = np.abs(kept).sum(dtype=np.float64)
        gain = np.abs(change).sum(dtype=np.float64) / after if rescale == "l1" and after else 1.0
        changes.append((gain * kept / (chances if rescale == "density" else 1)).astype(np.float32))
    ones = [1.0] * n_models
    joined = voted_sum(changes, ones, normalize) if method == "della" else plain_sum(changes, ones, normalize)
    np.testing.assert_allclose(whole, base + joined, rtol=1e-5, atol=1e-5)
