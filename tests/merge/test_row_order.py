"""Rows of the rotary projections: spans in Hugging Face's order make up any piece in GGUF's order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.gguf.names import permute_rope_rows
from entrenar_core.merge.row_order import RotaryRows


@given(data=st.data(), heads=st.integers(1, 5), half=st.integers(1, 6))
def test_spans_are_the_permutation(data: st.DataObject, heads: int, half: int) -> None:
    n_rows = heads * 2 * half
    first = data.draw(st.integers(0, n_rows - 1))
    count = data.draw(st.integers(1, n_rows - first))
    expected = permute_rope_rows(np.arange(n_rows), heads)[first : first + count]
    order = RotaryRows(n_rows, heads)
    piece = np.full(count, -1)
    for span in order.spans(first, count):
        assert (piece[span.places] == -1).all()
        piece[span.places] = np.arange(span.first, span.first + span.count)
    assert piece.tolist() == expected.tolist() == order.numbers(first, count)


def test_a_head_takes_two_spans() -> None:
    assert len(list(RotaryRows(64, 4).spans(16, 16))) == 2
