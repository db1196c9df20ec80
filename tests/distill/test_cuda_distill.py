"""Distillation on the CUDA backend, its kernels run on the host: what it says and teaches is the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.distill.layers import LayerMatching, LayerPair, MatchingSettings
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.distill.teachers import Teachers
from tests.backend.agreement import assert_close
from tests.cuda_host import host_runtime
from tests.distill import worlds
from tests.distill.test_cached_learning import batch_of, cached
from tests.model.tiny import DOUBLE

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

SOFT = DistillationParams("forward_kl", temperature=2.0, alpha=0.7)
SITUATIONS: dict[str, tuple[int, DistillationParams, dict[str, Any]]] = {
    "forward KL": (1, SOFT, {}),
    "Jensen-Shannon": (1, DistillationParams("jensen_shannon", 2.0, 0.5, 0.2), {}),
    "squared error": (2, DistillationParams("logit_mse", 1.0, 1.0), {"weights": [1.0, 3.0]}),
    "two teachers": (2, SOFT, {"weights": [1.0, 3.0]}),
    "by confidence": (2, SOFT, {"combine": "confidence"}),
    "fewer tokens": (1, SOFT, {"maps": [worlds.identity(shared=34)]}),
}


def device(compute_dtype: str = "float32") -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), compute_dtype)


def live(name: str, backend: Backend) -> Teachers:
    count, params, options = SITUATIONS[name]
    return worlds.teachers([worlds.model(2 + one, backend=backend) for one in range(count)], params, **options)


def assert_teaches_the_same(found: tuple[float, Any], truth: tuple[float, Any]) -> None:
    assert found[0] == pytest.approx(truth[0], rel=2e-5)
    for name, gradient in found[1].items():
        assert_close(gradient, truth[1][name], 1e-4, name)


@pytest.mark.parametrize("name", SITUATIONS)
def test_teachers_that_run_teach_what_the_reference_teaches(name: str) -> None:
    found, truth = (
        worlds.loss_and_gradients(
            worlds.learner(worlds.model(1, trainable=True, backend=backend), live(name, backend)), worlds.some_batch()
        )
        for backend in (device(), DOUBLE)
    )
    assert_teaches_the_same(found, truth)


@pytest.mark.parametrize("top_k", [5, 40])
def test_a_cache_that_the_device_has_filled_teaches_what_the_reference_teaches(top_k: int, tmp_path: Path) -> None:
    found = []
    for place, backend in (("device", device()), ("reference", DOUBLE)):
        teachers = live("forward KL", backend)
        signal = cached(tmp_path / place, teachers, top_k)
        student = worlds.model(1, trainable=True, backend=backend)
        one = DistilledModel(student, signal, teachers.vocabulary, teachers.params)
        found.append(worlds.loss_and_gradients(one, batch_of()))
    assert_teaches_the_same(*found)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_layers_and_attention_are_matched_as_on_the_reference(kind: Any) -> None:
    found = []
    for backend in (device(), DOUBLE):
        student = worlds.model(1, trainable=True, backend=backend, num_layers=1)
        teacher = worlds.model(2, backend=backend)
        settings = MatchingSettings(loss=kind, attention=0.5)
        matching = LayerMatching([LayerPair(0, 1)], settings, student.spec, teacher.spec, student.backend, seed=3)
        one = worlds.learner(student, worlds.teachers([teacher], SOFT), matching=matching)
        found.append(worlds.loss_and_gradients(one, worlds.some_batch(), 0.1))
        assert set(one.explain()) == {"divergence", "cross_entropy", "layers"}
    assert_teaches_the_same(*found)


def test_a_student_writes_and_learns_from_it() -> None:
    policy = OnPolicy(1.0, max_tokens=4, prompt_tokens=3, temperature=0.0, top_p=1.0, stop_ids=(), vocab_size=40)
    found = []
    for backend in (device(), DOUBLE):
        student = worlds.model(1, trainable=True, backend=backend)
        one = worlds.learner(student, live("forward KL", backend), on_policy=policy)
        found.append(worlds.loss_and_gradients(one, worlds.some_batch(), 0.1))
    assert_teaches_the_same(*found)


def test_in_bfloat16_the_parts_of_the_loss_are_close() -> None:
    parts = []
    for backend in (device("bfloat16"), DOUBLE):
        one = worlds.learner(worlds.model(1, trainable=True, backend=backend), live("two teachers", backend))
        worlds.loss_and_gradients(one, worlds.some_batch())
        parts.append(one.explain())
    assert parts[0] == pytest.approx(parts[1], rel=0.02)
    assert all(isinstance(value, float) for value in parts[0].values())
    assert np.isfinite(list(parts[0].values())).all()
