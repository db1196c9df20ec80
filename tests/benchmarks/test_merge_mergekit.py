"""What `benchmarks.merge_mergekit` takes for agreement with mergekit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.merge_cases import Case, cases
from benchmarks.merge_mergekit import Disagreement, Tensors, difference, statistics

WEIGHTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
EXACT, CHOOSING = Case("exact", {}), Case("choosing", {}, swaps=2)
SHAPE = (64, 512)


def changed(**places: float) -> dict[str, np.ndarray]:
    values = WEIGHTS.copy()
    for place, by in places.items():
        values.flat[int(place[1:])] += by
    return {"w": values}


def test_values_that_differ_in_the_last_digits_agree() -> None:
    assert difference(EXACT, changed(_3=9e-6), {"w": WEIGHTS})[0]


@pytest.mark.parametrize("by", (1.2e-5, -0.5, np.nan, np.inf))
def test_one_value_that_is_further_away_does_not_agree(by: float) -> None:
    assert not difference(EXACT, changed(_3=by), {"w": WEIGHTS})[0]


def test_entries_at_a_cutoff_may_be_chosen_otherwise_and_are_counted() -> None:
    agrees, found = difference(CHOOSING, changed(_3=0.5, _4=-0.5), {"w": WEIGHTS})
    assert agrees
    assert found.endswith("2 entries chosen otherwise")
    assert not difference(CHOOSING, changed(_3=0.5, _4=-0.5, _5=0.5), {"w": WEIGHTS})[0]


def test_tensors_that_are_left_out_are_not_compared() -> None:
    case = Case("leaving out", {}, left_out=("norm",))
    ours = {"w": WEIGHTS, "a.norm.weight": WEIGHTS[0]}
    assert difference(case, ours, {"w": WEIGHTS, "a.norm.weight": WEIGHTS[1]})[0]


@pytest.mark.parametrize("theirs", ({}, {"w": WEIGHTS, "v": WEIGHTS}, {"w": WEIGHTS.T}))
def test_other_tensors_or_shapes_are_no_agreement(theirs: Tensors) -> None:
    with pytest.raises(Disagreement, match="other tensors, or other shapes"):
        difference(EXACT, {"w": WEIGHTS}, theirs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base of zeros, and a fine-tune whose changes are drawn from a normal distribution."""
    change = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for name, values in (("base", np.zeros(SHAPE, np.float32)), ("dense", change)):
        (tmp_path / name).mkdir()
        save_file({"w": values}, tmp_path / name / "model.safetensors")
    return tmp_path


def dropped(probability: float | np.ndarray, seed: int, factor: float = 1.0) -> dict[str, np.ndarray]:
    """The change with entries kept at random."""
    change = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    kept = np.random.default_rng(seed).random(SHAPE) < probability
    return {"w": np.float32(factor) * change * kept}


def test_two_draws_of_one_distribution_agree(folder: Path) -> None:
    assert statistics(folder, dropped(0.3, 1), dropped(0.3, 2))[0]


def test_another_probability_does_not_agree(folder: Path) -> None:
    assert not statistics(folder, dropped(0.3, 1), dropped(0.33, 2))[0]


def test_another_norm_does_not_agree(folder: Path) -> None:
    assert not statistics(folder, dropped(0.3, 1), dropped(0.3, 2, factor=1.05))[0]


def test_the_same_share_of_other_magnitudes_does_not_agree(folder: Path) -> None:
    change = np.abs(dropped(1.0, 1)["w"])
    rising = np.where(change > np.median(change, axis=1, keepdims=True), 0.35, 0.25)
    assert not statistics(folder, dropped(rising, 1), dropped(0.3, 2))[0]


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
