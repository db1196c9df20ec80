"""The k-th largest magnitude, to the bit and to the place, from counts of pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from entrenar_core.merge import cutoffs
from entrenar_core.merge.cutoffs import ALL_BUT_ZEROS, NOTHING, Cutoff, find_cutoffs
from entrenar_core.merge.passes import Floats, Inputs, Piece
from tests.merge.merging import floats, merged_in_pieces
from tests.merge.oracle import keep_first

TINY = float(np.nextafter(np.float32(0), np.float32(1)))


def inputs_of(*pieces: Sequence[float]) -> list[Inputs]:
    """Pieces of one model of one row each, over a base of zeros."""
    rows = [np.array(piece, np.float32).reshape(1, -1) for piece in pieces]
    return [Inputs(Piece(i, i, 1), row[None], np.zeros_like(row)) for i, row in enumerate(rows)]


def found(pieces: Sequence[Inputs], *ranks: int) -> list[Cutoff]:
    """The cutoffs of these ranks; pieces are looked at from the last to the first."""
    seen: list[int] = []

    def wanted(nonzero: np.ndarray) -> list[list[int]]:
        seen.extend(nonzero.tolist())
        return [list(ranks)]

    passes = find_cutoffs(cutoffs.changes_of_models, wanted)
    try:
        one = next(passes)
        while True:
            results = [one.look(piece) for piece in reversed(pieces)][::-1]
            one = passes.send(results if one.fold is None else None)
    except StopIteration as end:
        assert seen == [sum(np.count_nonzero(piece.models) for piece in pieces)]
        [of_row] = end.value
        assert len(of_row) == len(ranks)
        return of_row


def kept(pieces: Sequence[Inputs], k: int) -> list[list[float]]:
    """What is among the first k of each piece."""
    [cutoff] = found(pieces, k)
    masks = [cutoff.mask(piece.piece, np.abs(piece.models).reshape(-1)) for piece in pieces]
    return [piece.models.reshape(-1)[mask].tolist() for piece, mask in zip(pieces, masks, strict=True)]


def test_a_cutoff_is_the_magnitude_of_entry_k_and_says_where_the_last_of_its_equals_is() -> None:
    pieces = inputs_of([1, -2, 3], [-2, 2, 5], [2, 0, 2])
    assert found(pieces, 1, 2, 3, 4, 5, 6, 7) == [
        Cutoff(np.float32(5), 3, 0),
        Cutoff(np.float32(3), 3, 0),
        Cutoff(np.float32(2), 1, 0),
        Cutoff(np.float32(2), 1, 1),
        Cutoff(np.float32(2), 2, 0),
        Cutoff(np.float32(2), 2, 1),
        Cutoff(np.float32(2), 3, 0),
    ]


def test_none_of_the_entries_or_all_that_are_not_zero() -> None:
    pieces = inputs_of([0, -1, 2], [0, 0, 4])
    assert found(pieces, 0, 3, 4, 100) == [NOTHING, ALL_BUT_ZEROS, ALL_BUT_ZEROS, ALL_BUT_ZEROS]
    assert kept(pieces, 0) == [[], []]
    assert kept(pieces, 3) == [[-1, 2], [4]]
    assert found(inputs_of([0, 0], [0, 0]), 1) == [ALL_BUT_ZEROS]


def test_in_the_piece_where_the_equals_end_the_first_are_kept() -> None:
    pieces = inputs_of([1, 7, -1], [-1, 1, 0.5, 1], [1, 1, 9])
    assert kept(pieces, 2) == [[7], [], [9]]
    assert kept(pieces, 3) == [[1, 7], [], [9]]
    assert kept(pieces, 5) == [[1, 7, -1], [-1], [9]]
    assert kept(pieces, 6) == [[1, 7, -1], [-1, 1], [9]]
    assert kept(pieces, 8) == [[1, 7, -1], [-1, 1, 1], [1, 9]]


def test_magnitudes_that_differ_in_the_last_bit_are_told_apart() -> None:
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    below = float(np.nextafter(np.float32(1), np.float32(0)))
    pieces = inputs_of([below, 1, above], [1, -above, -below])
    assert kept(pieces, 1) == [[above], []]
    assert kept(pieces, 2) == [[above], [-above]]
    assert kept(pieces, 4) == [[1, above], [1, -above]]
    assert kept(pieces, 5) == [[below, 1, above], [1, -above]]


def test_the_ends_of_the_range_of_float32() -> None:
    largest = float(np.finfo(np.float32).max)
    pieces = inputs_of([TINY, largest, -1e-40, 0], [2 * TINY, -largest, 1e-30, TINY])
    assert kept(pieces, 1) == [[largest], []]
    assert kept(pieces, 5) == [[largest, float(np.float32(-1e-40))], [2 * TINY, -largest, float(np.float32(1e-30))]]
    assert kept(pieces, 6) == [
        [TINY, largest, float(np.float32(-1e-40))],
        [2 * TINY, -largest, float(np.float32(1e-30))],
    ]


def test_steps_say_from_which_element_on_which_magnitudes_are_kept() -> None:
    cutoff, magnitudes = Cutoff(np.float32(1), 1, 2), floats(1, 3, 1, 1)
    above = np.nextafter(np.float32(1), np.float32(2))
    assert cutoff.steps(Piece(0, 0, 1), lambda: magnitudes) == [(0, 1)]
    assert cutoff.steps(Piece(1, 1, 1), lambda: magnitudes) == [(0, 1), (3, above)]
    assert cutoff.steps(Piece(2, 2, 1), lambda: magnitudes) == [(0, above)]
    assert Cutoff(np.float32(1), 1, 0).steps(Piece(1, 1, 1), lambda: magnitudes) == [(0, above)]


def test_many_entries_of_few_magnitudes_in_a_piece(rng: np.random.Generator) -> None:
    """More than are written down one by one."""
    delta: Floats = rng.choice([1.0, -1.0, 1.001, 3.0], (3, 6000)).astype(np.float32)
    for density in (0.3, 0.55, 0.9):
        found_there = merged_in_pieces("ties", [delta], np.zeros_like(delta), rows=1, density=[density])
        np.testing.assert_array_equal(found_there, keep_first(delta, 0, int(density * delta.size)))


def test_counts_outlast_tables_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutoffs, "_MOST_COUNTED", 5)
    pieces = inputs_of([1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1])
    assert kept(pieces, 5) == [[], [5, 6], [7, 8, 9], []]
    assert kept(pieces, 9) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]
