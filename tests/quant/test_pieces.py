"""Tensors are cut into whole rows that cover them once, and the buffers of all workers stay within the memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import ConfigError
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.quant.pieces import PIECE_VALUES, Pieces, buffer_sizes, piece_size
from entrenar_core.quant.plan import PlannedTensor


def tensor(shape: tuple[int, ...], target: str = "Q4_0", name: str = "w") -> PlannedTensor:
    n_bytes = 2
    for axis in shape:
        n_bytes *= axis
    return PlannedTensor(TensorInfo(name, shape, "F16", n_bytes, 0), target)


@pytest.mark.property
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4),
    values=st.integers(1, 600),
)
def test_pieces_cover_every_row_once_and_never_join_two_matrices(
    shapes: list[tuple[int, int, int]], values: int
) -> None:
    plan = [tensor((slabs, rows, 32 * blocks)) for slabs, rows, blocks in shapes]
    pieces = Pieces(plan, values)
    covered = [[] for _ in plan]
    for number in range(len(pieces)):
        piece = pieces[number]
        assert number in pieces.of_tensor(piece.tensor)
        assert piece.start // plan[piece.tensor].info.shape[1] == piece.slab
        assert (piece.stop - 1) // plan[piece.tensor].info.shape[1] == piece.slab
        covered[piece.tensor] += range(piece.start, piece.stop)
    assert covered == [list(range(one.n_rows)) for one in plan]
    with pytest.raises(IndexError):
        pieces[len(pieces)]


def test_a_stack_is_cut_matrix_by_matrix() -> None:
    plan = [tensor((2, 5, 64)), tensor((3, 32))]
    pieces = Pieces(plan, 130)
    assert [(piece.tensor, piece.start, piece.stop, piece.slab) for piece in map(pieces.__getitem__, range(7))] == [
        (0, 0, 2, 0),
        (0, 2, 4, 0),
        (0, 4, 5, 0),
        (0, 5, 7, 1),
        (0, 7, 9, 1),
        (0, 9, 10, 1),
        (1, 0, 3, 0),
    ]
    assert len(pieces) == 7
    assert (pieces.of_tensor(0), pieces.of_tensor(1)) == (range(6), range(6, 7))
    for outside in (-1, 7):
        with pytest.raises(IndexError, match=str(outside)):
            pieces[outside]


def test_a_row_is_the_least_that_is_done_at_a_time() -> None:
    assert [(piece.start, piece.stop) for piece in Pieces([tensor((3, 64))], 1)] == [(0, 1), (1, 2), (2, 3)]


def test_a_vector_and_a_single_value_are_one_piece() -> None:
    plan = [tensor((70,), "F16"), tensor((), "F16")]
    assert [(piece.start, piece.stop) for piece in Pieces(plan, 16)] == [(0, 1), (0, 1)]
    assert buffer_sizes(plan, 16, measures=True).n_bytes == 140  # copies need no values


def test_buffers_are_as_large_as_the_largest_piece() -> None:
    sizes = buffer_sizes([tensor((100, 64)), tensor((4, 128), "Q8_0")], 256, measures=False)
    assert (sizes.raw, sizes.values, sizes.packed, sizes.rounded) == (512, 256, 4 * 36 if 4 * 36 > 272 else 272, 0)
    assert buffer_sizes([tensor((100, 64))], 256, measures=True).rounded == 256


def test_copies_of_blocks_are_decoded_to_be_looked_into() -> None:
    copied = PlannedTensor(TensorInfo("w", (4, 64), "Q8_0", 4 * 68, 0), "Q8_0")
    sizes = buffer_sizes([copied], 128, measures=False)
    assert (sizes.raw, sizes.values, sizes.packed) == (2 * 68, 128, 0)


def test_less_memory_means_smaller_pieces_and_then_fewer_workers() -> None:
    plan = [tensor((4096, 1024))]
    assert piece_size(plan, 2, 1 << 30, measures=False) == (PIECE_VALUES, 2)
    values, workers = piece_size(plan, 2, 1 << 20, measures=False)
    assert values < PIECE_VALUES
    assert workers == 2
    assert workers * buffer_sizes(plan, values, measures=False).n_bytes <= 1 << 20
    row = buffer_sizes(plan, 1, measures=False).n_bytes
    assert piece_size(plan, 4, row, measures=False)[1] == 1


def test_pieces_are_halved_until_the_buffers_of_all_workers_fit_exactly() -> None:
    plan = [tensor((4096, 1024))]
    for measures in (False, True):
        needed = buffer_sizes(plan, PIECE_VALUES // 4, measures=measures).n_bytes
        assert piece_size(plan, 3, 3 * needed, measures=measures) == (PIECE_VALUES // 4, 3)
        assert piece_size(plan, 3, 3 * needed - 1, measures=measures) == (PIECE_VALUES // 8, 3)
    row = buffer_sizes(plan, 1, measures=True).n_bytes
    assert piece_size(plan, 4, 3 * row - 1, measures=True) == (1, 2)
    assert piece_size(plan, 4, 3 * row, measures=True) == (1, 3)


def test_a_row_that_does_not_fit_is_named() -> None:
    plan = [tensor((2, 1 << 20), name="big"), tensor((2, 32))]
    needed = buffer_sizes(plan, 1, measures=False).n_bytes
    for budget, missing in ((needed - 1, 1), (needed - (1 << 20), 1), (needed - (1 << 20) - 1, 2), (1000, 7)):
        with pytest.raises(ConfigError, match=rf"a row of big \(1048576 values\) does not fit: {missing} MiB") as error:
            piece_size(plan, 1, budget, measures=False)
        assert (error.value.where, error.value.hint) == ("run.memory", "raise --memory")
    assert piece_size(plan, 1, needed, measures=False)[1] == 1
