"""Batches of a step, and a gradient that does not depend on how the step is cut into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import Batch
from entrenar_core.data.loader import Loader
from entrenar_core.optim.clip import clip
from entrenar_core.train.parts import steps_of_epochs, steps_per_epoch
from entrenar_core.train.state import TrainState
from entrenar_core.train.step import StepBatches, accumulate_gradient, take_batches
from tests.data.documents import selection
from tests.train.tiny_model import TinyModel, counting_data, loader

DOUBLE = ReferenceBackend(np.float64)


def one_step(batches: Sequence[Batch]) -> StepBatches:
    return StepBatches(step=0, first=0, epoch=0, batches=batches, next_epoch=0, next_batch=len(batches))


def gradient_of(batches: Sequence[Batch]) -> tuple[float, float, dict[str, np.ndarray]]:
    """Loss, norm and gradients of one step over `batches`, in double."""
    model = TinyModel(DOUBLE)
    done = accumulate_gradient(model, one_step(batches).passes(seed=0))
    assert done is not None
    found = clip(model.trainable(), None, done.total()).read()
    return found.loss, found.norm, {name: tensor.grad.copy() for name, tensor in model.tensors.items()}


def batches_of(sizes: Sequence[int]) -> list[Batch]:
    """The examples of the tiny data set, cut into batches of these sizes."""
    data = counting_data(sum(sizes))
    begins = np.cumsum([0, *sizes])
    parts = [selection(data, np.arange(a, b)) for a, b in pairwise(begins)]
    return [Loader(part, batch_size=len(part), seq_len=16, shuffle=False).batch(0, 0) for part in parts]


@pytest.mark.property
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_accumulation_equals_the_large_batch_however_it_is_cut(sizes: list[int]) -> None:
    loss, norm, grads = gradient_of(batches_of(sizes))
    large_loss, large_norm, large_grads = gradient_of(batches_of([sum(sizes)]))
    assert loss == pytest.approx(large_loss, rel=1e-12)
    assert norm == pytest.approx(large_norm, rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, large_grads[name], rtol=1e-9, atol=1e-14)


def test_the_loss_is_the_mean_over_supervised_tokens_not_over_micro_batches() -> None:
    short, long = batches_of([1, 6])
    (loss_a, _, _), (loss_b, _, _) = gradient_of([short]), gradient_of([long])
    together, _, _ = gradient_of([short, long])
    n_a, n_b = short.n_supervised, long.n_supervised
    assert n_a != n_b
    assert together == pytest.approx((loss_a * n_a + loss_b * n_b) / (n_a + n_b), rel=1e-12)


def test_a_micro_batch_without_supervised_tokens_changes_nothing() -> None:
    batch, other = batches_of([3, 2])
    empty = Batch(
        other.tokens, np.full_like(other.labels, -100), other.positions, other.starts, other.n_tokens, n_supervised=0
    )
    assert gradient_of([empty, batch])[:2] == gradient_of([batch])[:2]


def test_a_stop_between_micro_batches_gives_no_gradient() -> None:
    model = TinyModel()
    answers = iter([False, True])
    passes = one_step(batches_of([2, 2, 2])).passes(0)
    assert accumulate_gradient(model, passes, should_stop=lambda: next(answers)) is None


def test_a_step_ends_with_its_epoch() -> None:
    source = loader(21, batch_size=3)  # 7 batches
    state = TrainState(epoch=0, batch=4)
    full = take_batches(source, state, grad_accum=2)
    assert (len(full.batches), full.next_epoch, full.next_batch) == (2, 0, 6)
    last = take_batches(source, TrainState(epoch=0, batch=6), grad_accum=2)
    assert (len(last.batches), last.next_epoch, last.next_batch) == (1, 1, 0)


def test_a_step_counts_its_tokens() -> None:
    taken = one_step(batches_of([2, 3]))
    assert taken.tokens == sum(batch.n_tokens for batch in taken.batches)
    assert taken.supervised_tokens == sum(int((batch.labels >= 0).sum()) for batch in taken.batches)


def test_each_pass_of_each_step_has_a_key_of_its_own() -> None:
    source = loader()
    keys = [
        one.key
        for step in range(2)
        for one in take_batches(source, TrainState(step=step, batch=2 * step), 2).passes(seed=9)
    ]
    assert [(key.seed, key.step, key.micro_batch) for key in keys if key] == [
        (9, 0, 0),
        (9, 0, 1),
        (9, 1, 0),
        (9, 1, 1),
    ]


def test_steps_of_epochs_round_up_in_each_epoch() -> None:
    source = loader(21, batch_size=3)
    assert steps_per_epoch(source, 0, grad_accum=2) == 4
    assert steps_of_epochs(source, epochs=3, grad_accum=2) == 12
    assert steps_of_epochs(source, epochs=3, grad_accum=100) == 3
