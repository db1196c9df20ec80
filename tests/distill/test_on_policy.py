"""When the student writes, after which prompts, and what becomes of it."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.distill.on_policy import OnPolicy, batch_of, prompts_of
from entrenar_core.model.generation import Generated
from entrenar_core.model.module import PassKey
from tests.model.tiny import build, pack, tiny_spec, tokens_of

POLICY = OnPolicy(0.5, max_tokens=6, prompt_tokens=3, temperature=1.0, top_p=1.0, stop_ids=(), vocab_size=40)


def policy(**changes: object) -> OnPolicy:
    return OnPolicy(**{**vars(POLICY), **changes})  # type: ignore[arg-type]


def batch_with_prompts() -> Batch:
    """Two documents in one row, the first with a prompt of three tokens, and one that is a target as a whole."""
    batch = pack([[np.arange(1, 8), np.arange(10, 16)], [np.arange(20, 29)]], 12)
    batch.labels[0, :2] = IGNORE
    return batch


def test_a_prompt_ends_where_the_first_target_is_asked_for() -> None:
    assert prompts_of(batch_with_prompts(), 4) == [[1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]


def test_a_short_document_is_a_prompt_as_a_whole() -> None:
    assert prompts_of(pack([[np.arange(1, 4)]], 8), 16) == [[1, 2]]


def test_a_document_without_a_target_is_left_out() -> None:
    batch = pack([[np.arange(1, 5), np.arange(6, 9)]], 8)
    batch.labels[0, :3] = IGNORE
    assert prompts_of(batch, 2) == [[6, 7]]


def test_only_what_was_written_is_a_target_and_the_stop_token_is_one() -> None:
    batch = batch_of([[1, 2, 3], [4]], [Generated((7, 8), 0), Generated((9,), None)], pad_id=39)
    assert batch is not None and batch.tokens.shape == (2, 8)
    assert batch.tokens.tolist() == [[1, 2, 3, 7, 8, 39, 39, 39], [4, 39, 39, 39, 39, 39, 39, 39]]
    assert batch.labels[0].tolist() == [IGNORE, IGNORE, 7, 8, 0, IGNORE, IGNORE, IGNORE]
    assert batch.labels[1].tolist() == [9] + [IGNORE] * 7
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert batch.starts[0].tolist() == [0, 0, 0, 0, 0, 5, 6, 7], "padding starts itself"
    assert (batch.n_tokens, batch.n_supervised) == (6, 4)


def test_nothing_written_is_no_batch() -> None:
    assert batch_of([[1]], [Generated((), None)], 0) is None
    assert batch_of([[1], [2]], [Generated((), None), Generated((5,), None)], 0) is not None


def test_the_share_of_written_batches_is_the_fraction_and_the_same_each_time() -> None:
    keys = [PassKey(3, step, micro) for step in range(200) for micro in range(2)]
    due = [POLICY.is_due(key) for key in keys]
    assert 150 < sum(due) < 250 and due == [POLICY.is_due(key) for key in keys]
    assert all(policy(fraction=1.0).is_due(key) for key in keys)


def test_the_student_goes_on_from_its_prompts_and_writes_the_same_again() -> None:
    model, batch, key = build(tiny_spec(), trainable=False), batch_with_prompts(), PassKey(1, 2, 0)
    found, again = (POLICY.written(model, batch, key) for _ in range(2))
    assert found is not None and again is not None
    assert found.tokens.tolist() == again.tokens.tolist() and found.labels.tolist() == again.labels.tolist()
    assert found.n_supervised == 18 and found.tokens[0, :3].tolist() == [1, 2, 3]
    other = POLICY.written(model, batch, PassKey(1, 3, 0))
    assert other is not None and other.labels.tolist() != found.labels.tolist()


def test_greedy_writing_follows_the_logits() -> None:
    model = build(tiny_spec(), trainable=False)
    found = policy(temperature=0.0).written(model, pack([[tokens_of(9)]], 8), PassKey(1, 0, 0))
    assert found is not None
    text = [*found.tokens[0, :8].tolist(), found.labels[0, 7]]
    logits = model.logits(np.array([text], np.int32))[0]
    assert found.labels[0, 2:8].tolist() == logits.argmax(axis=1)[2:8].tolist()


@pytest.mark.parametrize(("context", "written"), [(8, 4), (4, 0)])
def test_the_context_bounds_what_is_written(context: int, written: int) -> None:
    model = build(tiny_spec(context_length=context), trainable=False)
    found = policy(prompt_tokens=3).written(model, pack([[np.arange(1, 9)]], 8), PassKey(1, 0, 0))
    assert (0 if found is None else found.n_supervised) == written


def test_a_teacher_with_a_shorter_context_bounds_what_is_written() -> None:
    model = build(tiny_spec(), trainable=False)
    found = policy(context_length=7).written(model, pack([[np.arange(1, 9)]], 8), PassKey(1, 0, 0))
    assert found is not None and (found.n_tokens, found.n_supervised) == (5, 3)


def test_a_long_prompt_leaves_the_others_their_room() -> None:
    model = build(tiny_spec(context_length=12), trainable=False)
    batch = pack([[np.arange(1, 12)], [np.arange(1, 9)]], 12)
    batch.labels[0, :8] = IGNORE
    found = POLICY.written(model, batch, PassKey(1, 0, 0))
    assert found is not None
    assert (found.labels >= 0).sum(axis=1).tolist() == [2, 6]
