"""Windows: what is read together, and which tokens are scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.batch import IGNORE
from entrenar_core.errors import DataError
from entrenar_core.evaluation.windows import Windows, llama_cpp_windows, sliding_windows

BOS = 99


def ids(count: int) -> np.ndarray:
    """Each token is its own place in the text."""
    return np.arange(count, dtype=np.int32)


def scored_tokens(windows: Windows, rows_per_batch: int | None = None) -> list[int]:
    """The labels of all batches in their order; in `ids` a label is the place of the scored token."""
    found: list[int] = []
    for batch in windows.batches(rows_per_batch):
        assert batch.n_supervised == np.count_nonzero(batch.labels != IGNORE)
        assert batch.n_tokens == batch.tokens.size
        assert (batch.starts == 0).all() and (batch.positions == np.arange(batch.tokens.shape[1])).all()
        found += batch.labels[batch.labels != IGNORE].tolist()
    return found


def test_llama_cpp_scores_the_second_half_of_each_chunk() -> None:
    """With n_ctx = 8: positions 4, 5, 6 predict tokens 5, 6, 7 (first = n_ctx/2, n_ctx - first - 1 tokens)."""
    (batch,) = llama_cpp_windows(ids(19), 8).batches()
    assert batch.tokens.tolist() == [list(range(8)), list(range(8, 16))]
    ignored = [IGNORE] * 4
    assert batch.labels.tolist() == [[*ignored, 5, 6, 7, IGNORE], [*ignored, 13, 14, 15, IGNORE]]


@pytest.mark.parametrize("context", [8, 9])
def test_llama_cpp_scores_as_many_tokens_as_it_counts(context: int) -> None:
    windows = llama_cpp_windows(ids(3 * context), context)
    assert windows.n_scored == len(scored_tokens(windows)) == 3 * (context - context // 2 - 1)


def test_each_chunk_begins_with_bos_in_place_of_its_first_token() -> None:
    (batch,) = llama_cpp_windows(ids(16), 8, bos_id=BOS).batches()
    assert batch.tokens.tolist() == [[BOS, *range(1, 8)], [BOS, *range(9, 16)]]
    assert BOS not in batch.labels


def test_chunks_are_taken_from_the_beginning() -> None:
    assert scored_tokens(llama_cpp_windows(ids(40), 8).first(2)) == [5, 6, 7, 13, 14, 15]
    assert len(llama_cpp_windows(ids(40), 8).first(9)) == 5


def test_a_text_of_less_than_two_chunks_is_refused() -> None:
    with pytest.raises(DataError, match="15 tokens: two windows of 8") as caught:
        llama_cpp_windows(ids(15), 8)
    assert "at most 7" in str(caught.value.hint)


@given(count=st.integers(2, 80), context=st.integers(4, 20), data=st.data())
def test_sliding_windows_score_every_token_but_the_first_once(count: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context - 1))
    windows = sliding_windows(ids(count), context, stride)
    assert scored_tokens(windows, data.draw(st.integers(1, 5))) == list(range(1, count))
    assert windows.n_scored == count - 1
    assert all(stop - start <= context for start, stop in zip(windows.starts, windows.stops, strict=True))
    seen_before = windows.first_scored[1:]
    assert (seen_before >= context - stride).all()


def test_windows_that_do_not_overlap_leave_out_their_first_tokens() -> None:
    assert scored_tokens(sliding_windows(ids(10), 4, 4)) == [1, 2, 3, 5, 6, 7, 9]


@pytest.mark.parametrize(
    ("count", "context", "stride", "message"),
    [(20, 8, 9, "stride of 9"), (20, 8, 0, "stride of 0"), (20, 3, 1, "windows of 3"), (1, 8, 4, "has 1 token")],
)
def test_windows_that_cannot_be_are_refused(count: int, context: int, stride: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sliding_windows(ids(count), context, stride)


@given(rows=st.integers(1, 7))
def test_how_many_rows_share_a_batch_changes_nothing_that_is_scored(rows: int) -> None:
    windows = sliding_windows(ids(50), 8, 3)
    assert scored_tokens(windows, rows) == scored_tokens(windows)
    assert all(len(batch.tokens) <= rows for batch in windows.batches(rows))
