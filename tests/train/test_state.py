"""The training state: its way through JSON, and its memory of evaluations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import FormatError
from entrenar_core.train.settings import EarlyStopping
from entrenar_core.train.state import TrainState

COUNT = st.integers(0, 2**53)
LOSS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.property
@given(
    st.builds(
        TrainState,
        step=COUNT,
        epoch=COUNT,
        batch=COUNT,
        tokens=COUNT,
        train_loss=LOSS,
        val_loss=LOSS,
        best_val_loss=LOSS,
        best_step=st.none() | COUNT,
        stopping_loss=LOSS,
    )
)
def test_json_gives_the_same_state_back_to_the_last_bit(state: TrainState) -> None:
    assert TrainState.from_json(json.loads(json.dumps(state.to_json())), "state.json") == state


@pytest.mark.parametrize(
    "change",
    [{"step": -1}, {"step": 1.5}, {"step": True}, {"step": None}, {"val_loss": "low"}, {"val_loss": 1}, {"more": 1}],
)
def test_a_state_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"state\.json"):
        TrainState.from_json({**TrainState().to_json(), **change}, "state.json")


def test_a_missing_key_is_refused() -> None:
    content = TrainState().to_json()
    del content["epoch"]
    with pytest.raises(FormatError, match="epoch"):
        TrainState.from_json(content, "state.json")


def evaluated(losses: list[float], early_stopping: EarlyStopping | None) -> TrainState:
    state = TrainState()
    for step, loss in enumerate(losses, start=1):
        state = TrainState(**{**state.to_json(), "step": step}).after_evaluation(loss, early_stopping)
    return state


def test_the_best_loss_and_its_step_are_remembered() -> None:
    state = evaluated([3.0, 1.0, 2.0], None)
    assert (state.best_val_loss, state.best_step, state.val_loss, state.evaluated_step) == (1.0, 2, 2.0, 3)


def test_an_equal_loss_is_no_improvement() -> None:
    assert evaluated([1.0, 1.0, 1.0], EarlyStopping(patience=5)).evals_without_improvement == 2


def test_a_fall_smaller_than_min_delta_is_the_best_but_no_improvement() -> None:
    state = evaluated([1.0, 0.95], EarlyStopping(patience=5, min_delta=0.1))
    assert (state.best_val_loss, state.evals_without_improvement) == (0.95, 1)


def test_small_falls_add_up_to_an_improvement() -> None:
    state = evaluated([1.0, 0.95, 0.89], EarlyStopping(patience=5, min_delta=0.1))
    assert (state.stopping_loss, state.evals_without_improvement) == (0.89, 0)


def test_an_evaluation_that_is_not_judged_is_remembered_and_counts_for_nothing() -> None:
    stopping = EarlyStopping(patience=2)
    state = TrainState(step=3).after_evaluation(0.5, stopping, is_judged=False)
    assert (state.val_loss, state.evaluated_step) == (0.5, 3)
    assert (state.best_val_loss, state.best_step, state.stopping_loss) == (None, None, None)
    assert state.evals_without_improvement == 0
    judged = state.after_evaluation(0.9, stopping)
    assert (judged.best_val_loss, judged.best_step, judged.stopping_loss) == (0.9, 3, 0.9)
