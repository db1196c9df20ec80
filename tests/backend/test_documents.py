"""Where documents are, as the host reads it from the first key that each query sees."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.backend.documents import HostLower


def documents(rows: list[list[int]]) -> tuple[list[int], list[int]] | None:
    found = HostLower(np.array(rows, np.int32)).documents
    return None if found is None else (found.starts.tolist(), found.lengths.tolist())


def test_documents_lie_one_behind_another_through_the_rows_of_a_batch() -> None:
    assert documents([[0, 0, 2, 2], [0, 0, 0, 0]]) == ([0, 2, 4], [2, 2, 4])


def test_padding_is_a_document_a_token() -> None:
    assert documents([[0, 0, 2, 3], [0, 1, 1, 1]]) == ([0, 2, 3, 4, 5], [2, 1, 1, 1, 3])


@pytest.mark.parametrize("row", [[0, 0, 1, 2], [0, 1, 0, 0], [0, 0, 2, 0], [-1, -1, -1, -1]])
def test_a_window_or_earlier_tokens_are_no_documents(row: list[int]) -> None:
    assert documents([[0, 0, 0, 0], row]) is None


def test_the_first_key_of_some_queries() -> None:
    lower = HostLower(np.array([[0, 0, 2, 2, 2], [0, 0, 0, 3, 3]], np.int32))
    assert [lower.first_key(*some) for some in ((0, 5), (2, 3), (3, 5))] == [0, 0, 2]
