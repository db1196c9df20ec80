"""Which blocks follow which, and the loss of those that do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.autograd.tape import Tape
from entrenar_core.distill.layers import EVEN, LayerMatching, LayerPair, MatchingSettings, layer_pairs
from entrenar_core.errors import ConfigError
from entrenar_core.model.decoder import LanguageModel, Taps
from tests.distill.worlds import model, some_batch
from tests.model.tiny import DOUBLE


def matching(student: LanguageModel, teacher: LanguageModel, *pairs: tuple[int, int], **settings: Any) -> LayerMatching:
    found = [LayerPair(*pair) for pair in pairs]
    return LayerMatching(found, MatchingSettings(**settings), student.spec, teacher.spec, DOUBLE, 7)


def run(one: LayerMatching, student: LanguageModel, teacher: LanguageModel, step: int = 0, scale: float = 1.0) -> float:
    """The loss; gradients are left on the parameters."""
    batch, taps, theirs = some_batch(), one.student_taps(), one.teacher_taps()
    teacher.hidden_states(batch.tokens, batch.positions, batch.starts, taps=theirs)
    with Tape() as tape:
        student.hidden_states(batch.tokens, batch.positions, batch.starts, taps=taps)
        loss = one.loss(taps, theirs, batch, scale, step)
    tape.backward(loss)
    return float(loss.data)


def states(one: LanguageModel, block: int) -> np.ndarray:
    """The residual stream after a block, at the supervised positions."""
    batch, taps = some_batch(), Taps(frozenset({block}))
    one.hidden_states(batch.tokens, batch.positions, batch.starts, taps=taps)
    found: np.ndarray = taps.states[block].numpy().reshape(-1, one.spec.hidden_size)[batch.labels.reshape(-1) >= 0]
    return found


@pytest.mark.parametrize(
    ("layers", "sizes", "expected"),
    [
        (EVEN, (3, 6), [(0, 1), (1, 3), (2, 5)]),
        (EVEN, (2, 5), [(0, 2), (1, 4)]),
        (EVEN, (2, 2), [(0, 0), (1, 1)]),
        ([2, 0], (3, 6), [(0, 1), (2, 5)]),
        ({1: 0, 0: 4}, (2, 5), [(0, 4), (1, 0)]),
    ],
)
def test_blocks_at_the_same_depth_go_together(layers: Any, sizes: tuple[int, int], expected: list[Any]) -> None:
    assert layer_pairs(layers, *sizes) == tuple(LayerPair(*pair) for pair in expected)


@pytest.mark.parametrize(
    ("layers", "message"), [([3], "block 3: the student has 3"), ({0: 6}, "block 6: the teacher has 6")]
)
def test_a_block_that_does_not_exist_is_named(layers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        layer_pairs(layers, 3, 6)
    assert caught.value.where == "distill.layers"


@pytest.mark.property
@given(st.integers(1, 12), st.integers(0, 30))
def test_the_last_block_follows_the_last_and_none_is_passed_by(n_student: int, more: int) -> None:
    pairs = layer_pairs(EVEN, n_student, n_student + more)
    followed = [pair.teacher for pair in pairs]
    assert followed[-1] == n_student + more - 1 and followed == sorted(set(followed))


def test_equal_models_match_and_others_do_not() -> None:
    student, teacher = model(trainable=True), model()
    assert run(matching(student, teacher, (0, 0), (1, 1)), student, teacher) == 0
    assert run(matching(student, teacher, (0, 1)), student, teacher) > 0


def test_the_mean_squared_error_of_the_states_is_summed_over_positions() -> None:
    student, teacher = model(1, trainable=True), model(2)
    found = run(matching(student, teacher, (0, 1), (1, 0), weight=3.0), student, teacher, scale=0.5)
    each = [
        np.square(states(student, one) - states(teacher, other)).mean(axis=1).sum() for one, other in ((0, 1), (1, 0))
    ]
    assert found == pytest.approx(0.5 * 3.0 * np.mean(each))


def test_cosines_do_not_see_sizes() -> None:
    student, teacher = model(1, trainable=True), model(2)
    found = run(matching(student, teacher, (1, 1), loss="cosine"), student, teacher)
    a, b = states(student, 1), states(teacher, 1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    assert found == pytest.approx((1 - (a * b).sum(axis=1) / norms).sum())


def test_widths_that_differ_are_joined_by_learned_matrices() -> None:
    student, teacher = model(1, trainable=True), model(2, hidden_size=24)
    one = matching(student, teacher, (0, 0), (1, 1))
    assert {name: tensor.shape for name, tensor in one.trainable().items()} == {
        "distill.projection.0.weight": (24, 16),
        "distill.projection.1.weight": (24, 16),
    }
    again = matching(student, teacher, (0, 0))
    np.testing.assert_array_equal(one.projections[0].numpy(), again.projections[0].numpy())
    loss = run(one, student, teacher)
    projected = [states(student, block) @ one.projections[block].numpy().T for block in (0, 1)]
    expected = np.mean(
        [np.square(mine - states(teacher, block)).mean(axis=1).sum() for block, mine in enumerate(projected)]
    )
    assert loss == pytest.approx(expected)
    assert all(np.abs(tensor.grad).max() > 0 for tensor in one.trainable().values())


def test_equal_widths_and_mere_attention_need_no_matrices() -> None:
    assert matching(model(), model(), (0, 0)).trainable() == {}
    assert matching(model(), model(2, hidden_size=24), (0, 0), weight=0.0, attention=1.0).trainable() == {}


@pytest.mark.parametrize(("step", "active"), [(0, 1), (9, 1), (10, 2), (1000, 2)])
def test_pairs_join_one_after_another_from_the_bottom(step: int, active: int) -> None:
    student, teacher = model(1, trainable=True), model(2, hidden_size=24)
    one = matching(student, teacher, (0, 0), (1, 1), progressive=10)
    assert one.active(step) == active
    loss = run(one, student, teacher, step=step)
    alone = matching(student, teacher, *[(0, 0), (1, 1)][:active])
    gradients = [np.abs(one.projections[block].grad).max() for block in (0, 1)]
    assert loss == pytest.approx(run(alone, student, teacher))
    assert (gradients[0] > 0, gradients[1] > 0) == (True, active == 2), "one that waits has a gradient of zeros"


def test_attention_follows_even_with_other_numbers_of_heads() -> None:
    student, teacher = model(1, trainable=True), model(2, num_heads=4, num_kv_heads=2, hidden_size=32)
    one = matching(student, teacher, (0, 1), weight=0.0, attention=2.0)
    assert run(one, student, teacher) > 0
    same = model(1)
    assert run(matching(student, same, (1, 1), weight=0.0, attention=2.0), student, same) == pytest.approx(0, abs=1e-12)


def test_checkpointed_blocks_give_the_same_loss_and_gradients() -> None:
    plain, thrifty, teacher = model(1, trainable=True), model(1, trainable=True, checkpoint_activations=True), model(2)
    settings = {"weight": 1.0, "attention": 0.5}
    losses = [run(matching(one, teacher, (0, 0), (1, 1), **settings), one, teacher) for one in (plain, thrifty)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for name, tensor in plain.trainable().items():
        if tensor.grad is not None:
            np.testing.assert_allclose(thrifty.trainable()[name].grad, tensor.grad, atol=1e-10)
