"""A student that learns from a cache learns what it would from the teachers: all of it, or in fewer outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.data.batch import Batch
from entrenar_core.data.loader import Loader
from entrenar_core.distill.cache import CachedTeacher, CacheRequest, open_or_build
from entrenar_core.distill.cache_key import gives_weights, teacher_key
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.teachers import Teachers
from tests.distill import worlds
from tests.distill.caches import EXAMPLES, INDICES, Heard

SOFT = DistillationParams("forward_kl", temperature=2.0, alpha=0.7)


def batch_of(index: int = 0) -> Batch:
    return Loader(EXAMPLES, batch_size=3, seq_len=32, seed=2, indices=INDICES).batch(0, index)


def cached(folder: Path, live: Teachers, top_k: int) -> CachedTeacher:
    key = teacher_key(["aa"] * len(live.teachers), live.shares, live.vocabulary, live.params, live.combine)
    weighted = gives_weights(live.vocabulary)
    found = open_or_build(
        CacheRequest(folder, key, live.vocabulary.n, top_k, weighted=weighted, shard_bytes=20_000),
        EXAMPLES,
        INDICES,
        backend=live.backend,
        teachers=lambda: live,
        reporter=Heard(),
    )
    assert found is not None
    return found


def learned(live: Teachers, signal: Any) -> tuple[float, dict[str, np.ndarray]]:
    student = worlds.model(1, trainable=True)
    return worlds.loss_and_gradients(DistilledModel(student, signal, live.vocabulary, live.params), batch_of())


SITUATIONS: dict[str, tuple[int, DistillationParams, dict[str, Any]]] = {
    "forward KL": (1, SOFT, {}),
    "reverse KL": (1, DistillationParams("reverse_kl", 1.0, 1.0), {}),
    "Jensen-Shannon": (1, DistillationParams("jensen_shannon", 2.0, 0.5, 0.2), {}),
    "squared error": (1, DistillationParams("logit_mse", 1.0, 1.0), {}),
    "two teachers": (2, SOFT, {"weights": [1.0, 3.0]}),
    "by confidence": (2, SOFT, {"combine": "confidence"}),
    "fewer tokens": (1, SOFT, {"maps": [worlds.identity(shared=34)]}),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_where_every_token_is_kept_loss_and_gradients_are_those_of_the_teachers(tmp_path: Path, name: str) -> None:
    count, params, options = SITUATIONS[name]
    live = worlds.teachers([worlds.model(2 + number) for number in range(count)], params, **options)
    loss, gradients = learned(live, live)
    found, others = learned(live, cached(tmp_path / "cache", live, live.vocabulary.n))
    assert found == pytest.approx(loss, rel=1e-6)
    for tensor, gradient in gradients.items():
        np.testing.assert_allclose(others[tensor], gradient, rtol=1e-4, atol=1e-6 * np.abs(gradient).max())


def test_fewer_outcomes_only_make_the_divergence_smaller(tmp_path: Path) -> None:
    """The data-processing inequality; with one token less than all, the two are the same."""
    live = worlds.teachers([worlds.model(2)], DistillationParams("forward_kl", 1.0, 1.0))
    losses = [learned(live, cached(tmp_path / f"{top_k}", live, top_k))[0] for top_k in (1, 5, 20, 39)]
    assert losses == sorted(losses)
    assert 0 < losses[0] < losses[2]
    assert losses[3] == pytest.approx(learned(live, live)[0], rel=1e-6)


# -- the key --------------------------------------------------------------------------------------------------------


def key_of(
    digests: Sequence[str] = ("aa", "bb"),
    shares: Sequence[float] = (1.0, 1.0),
    params: DistillationParams = SOFT,
    combine: Any = "mean",
    shared: int | None = None,
) -> dict[str, Any]:
    vocabulary = worlds.shared(worlds.identity(shared=shared), worlds.identity())
    return teacher_key(digests, shares, vocabulary, params, combine)


@pytest.mark.parametrize(
    "changes",
    [
        {"digests": ("aa", "cc")},
        {"digests": ("bb", "aa")},
        {"shares": (1.0, 2.0)},
        {"params": DistillationParams("forward_kl", 1.0)},
        {"params": DistillationParams("logit_mse", 2.0)},
        {"combine": "confidence"},
        {"shared": 39},
    ],
    ids=str,
)
def test_what_changes_the_answers_changes_the_key(changes: dict[str, Any]) -> None:
    assert key_of(**changes) != key_of()


@pytest.mark.parametrize(
    "changes",
    [{"shares": (2.0, 2.0)}, {"params": DistillationParams("jensen_shannon", 2.0, 0.1, 0.9)}],
    ids=str,
)
def test_what_is_done_with_the_answers_does_not(changes: dict[str, Any]) -> None:
    assert key_of(**changes) == key_of()


def test_logits_have_no_temperature() -> None:
    one, other = (key_of(params=DistillationParams("logit_mse", temperature)) for temperature in (1.0, 2.0))
    assert one == other


def test_one_teacher_has_no_shares() -> None:
    vocabulary = worlds.shared(worlds.identity())
    one, other = (
        teacher_key(["aa"], [share], vocabulary, SOFT, combine) for share, combine in ((1, "mean"), (2, "confidence"))
    )
    assert one == other


def test_targets_have_weights_where_a_teacher_lacks_a_token() -> None:
    assert not gives_weights(worlds.shared(worlds.identity()))
    assert gives_weights(worlds.shared(worlds.identity(), worlds.identity(shared=39)))
