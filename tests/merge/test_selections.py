"""What is kept of a change, the plain way, is what the kernels keep; and it is counted."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.merge.cutoffs import ALL_BUT_ZEROS, NOTHING, Cutoff
from entrenar_core.merge.passes import Combine, Inputs, Piece, SparseCombine, TensorFacts
from entrenar_core.merge.random_masks import mask_key, threshold
from entrenar_core.merge.registry import method_entry
from entrenar_core.merge.selections import Between, Drawn, Everything, Selection
from tests.merge.merging import floats, merged_in_pieces, parameters


@pytest.mark.parametrize(
    ("kept", "dropped", "chosen"),
    [
        (ALL_BUT_ZEROS, NOTHING, [[1, -2, 3], [0, 2, -3]]),
        (Cutoff(np.float32(2), 0, 1), NOTHING, [[0, -2, 3], [0, 0, -3]]),
        (Cutoff(np.float32(1), 1, 0), Cutoff(np.float32(3), 0, 1), [[1, -2, 0], [0, 2, -3]]),
        (Cutoff(np.float32(2), 0, 2), Cutoff(np.float32(2), 0, 1), [[0, 0, 0], [0, 2, 0]]),
    ],
)
def test_between_two_cutoffs(kept: Cutoff, dropped: Cutoff, chosen: list[list[float]]) -> None:
    change = floats(1, -2, 3, 0, 2, -3).reshape(2, 3)
    assert Between(kept, dropped, gain=1.0).chosen(Piece(0, 0, 2), change).tolist() == chosen


def test_steps_of_both_cutoffs_are_one_list() -> None:
    selection = Between(Cutoff(np.float32(1), 0, 1), Cutoff(np.float32(3), 0, 1), gain=1.0)
    above_1, above_3 = np.nextafter(np.float32(1), np.float32(2)), np.nextafter(np.float32(3), np.float32(4))
    steps = selection.steps(Piece(0, 0, 1), lambda: floats(3, -1, 1, -3).reshape(1, 4))
    assert steps == [(0, 1, 3), (1, 1, above_3), (2, above_1, above_3)]


def combine_of(method: str, change: np.ndarray, **changed: object) -> tuple[Combine, Inputs]:
    """The end of a merge of one model as one piece."""
    whole = Inputs(Piece(0, 0, len(change)), change[None].copy(), np.zeros_like(change))
    passes = method_entry(method).run(TensorFacts("t", change.shape, 1, True), parameters(1, **changed))
    try:
        one = next(passes)
        while True:
            result = one.look(whole)
            one = passes.send([result] if one.fold is None else result)
    except StopIteration as end:
        combine: Combine = end.value
        return combine, whole


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "dare_linear", "della_linear", "task_arithmetic"])
def test_it_counts_what_is_kept_and_not_zero(method: str, rng: np.random.Generator) -> None:
    change = rng.integers(-3, 4, (6, 7)).astype(np.float32)
    options = {"density": [0.4], "gamma": [0.1], "seed": 3}
    combine, whole = combine_of(method, change, **options)
    assert isinstance(combine, SparseCombine)
    out = np.empty_like(change)
    combine(whole, out)
    assert combine.n_kept(whole) == (np.count_nonzero(out),)
    assert (np.count_nonzero(out) < np.count_nonzero(change)) == (method != "task_arithmetic")


def test_each_row_of_a_drawn_selection_has_draws_of_its_own(rng: np.random.Generator) -> None:
    change = rng.standard_normal((6, 50)).astype(np.float32)
    selection = Drawn(mask_key(3, 0, "t"), threshold(0.4), gain=1.0)
    rows = [selection.chosen(Piece(row, row, 1), change[row : row + 1])[0] for row in range(6)]
    expected = merged_in_pieces("dare_linear", [change], np.zeros_like(change), density=[0.4], seed=3)
    np.testing.assert_array_equal(rows, expected)
    assert len({tuple(row != 0) for row in rows}) == 6
    always = Drawn(mask_key(3, 0, "t"), threshold(1.0), gain=1.0)
    np.testing.assert_array_equal(always.chosen(Piece(0, 0, 6), change), change)


def test_everything_is_the_change_itself() -> None:
    change = floats(1, 0).reshape(1, 2)
    everything: Selection = Everything()
    assert everything.chosen(Piece(0, 0, 1), change) is change
    assert everything.gain == 1.0
