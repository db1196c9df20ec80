"""llama, qwen2 and qwen3 against transformers: logits, losses and the gradient of every parameter.

float64: our reference backend against torch double, 1e-8. float32: every backend against the unchanged float32 model,
with the gradient known in double: ‖Δg‖ ≤ 1e-4·‖g‖ + 1e-6·(norm of all gradients) for each parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
pytest.importorskip("transformers", reason="transformers is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend  # noqa: E402
from entrenar_core.backend.reference import ReferenceBackend  # noqa: E402
from entrenar_core.data.batch import IGNORE, Batch  # noqa: E402
from tests.model.tiny import DOUBLE, loss_and_gradients, pack, tokens_of  # noqa: E402
from tests.oracle.hugging_face import CASES, VOCAB_SIZE, Pair, make_pair, summed_loss  # noqa: E402

BATCH, TIME = 2, 21

Gradients = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["reference", "cpu"])
def float32_backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    backend = ReferenceBackend(np.float32) if request.param == "reference" else CpuBackend(threads=2)
    yield backend
    backend.close()


@cache
def pair_of(case: str, dtype: torch.dtype) -> Pair:
    return make_pair(case, dtype)


@cache
def masked_batch() -> Batch:
    """Whole rows, one document each, with a third of the labels masked and a stretch at the front as in prompts."""
    documents = tokens_of(BATCH, TIME + 1, vocab_size=VOCAB_SIZE, seed=3)
    batch = pack([[row] for row in documents], TIME)
    batch.labels[np.random.default_rng(4).random(batch.labels.shape) < 0.3] = IGNORE
    batch.labels[0, :6] = IGNORE
    return replace(batch, n_supervised=int((batch.labels >= 0).sum()))


@cache
def truth(case: str) -> tuple[float, Gradients]:
    """Loss (mean over supervised tokens) and gradients of the double model on `masked_batch`."""
    return theirs(pair_of(case, torch.float64), masked_batch())


def theirs(pair: Pair, batch: Batch) -> tuple[float, Gradients]:
    """Loss and gradients by torch, document by document: each is run alone, so nothing can leak between them."""
    pair.hf.zero_grad()
    total = 0.0
    for row in range(batch.tokens.shape[0]):
        for start in np.unique(batch.starts[row]):
            part = np.flatnonzero(batch.starts[row] == start)
            if (batch.labels[row, part] >= 0).any():
                loss = summed_loss(pair.hf, batch.tokens[row : row + 1, part], batch.labels[row : row + 1, part])
                (loss / batch.n_supervised).backward()
                total += float(loss.detach()) / batch.n_supervised
    return total, pair.gradients()


def worst_deviation(ours: Gradients, reference: Gradients) -> tuple[float, str]:
    """The largest ‖Δg‖ / ‖g_ref‖ and its parameter, after checking that the same parameters have gradients."""
    assert set(ours) == set(reference)
    deviations = {
        name: float(np.linalg.norm(ours[name] - grad) / np.linalg.norm(grad)) for name, grad in reference.items()
    }
    name = max(deviations, key=lambda each: deviations[each])
    return deviations[name], name


def outside_bound(ours: Gradients, reference: Gradients) -> list[str]:
    """Parameters whose gradient misses the float32 bound, with by how much."""
    assert set(ours) == set(reference)
    global_norm = np.sqrt(sum(float(np.square(grad).sum()) for grad in reference.values()))
    missed = []
    for name, grad in reference.items():
        error = float(np.linalg.norm(ours[name].astype(np.float64) - grad))
        bound = 1e-4 * float(np.linalg.norm(grad)) + 1e-6 * global_norm
        if not error <= bound:
            missed.append(f"{name}: {error:.3g} > {bound:.3g}")
    return missed


@pytest.mark.parametrize("case", CASES)
def test_double_logits_are_those_of_torch(case: str) -> None:
    pair, tokens = pair_of(case, torch.float64), masked_batch().tokens
    with torch.no_grad():
        expected = pair.hf(torch.from_numpy(tokens).long()).logits.numpy()
    actual = pair.ours(DOUBLE).logits(tokens)
    assert actual.dtype == np.float64
    assert np.linalg.norm(actual - expected) <= 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("case", CASES)
def test_double_loss_and_every_gradient_are_those_of_torch(case: str) -> None:
    batch = masked_batch()
    expected_loss, expected = truth(case)
    loss, gradients = loss_and_gradients(pair_of(case, torch.float64).ours(DOUBLE), batch, 1 / batch.n_supervised)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    deviation, name = worst_deviation(gradients, expected)
    assert deviation <= 1e-8, f"{name} is off by {deviation:.2e}"


@pytest.mark.parametrize("case", CASES)
def test_float32_logits_are_those_of_the_unchanged_model(case: str, float32_backend: Any) -> None:
    pair, tokens = pair_of(case, torch.float32), masked_batch().tokens
    with torch.no_grad():
        expected = pair.hf(torch.from_numpy(tokens).long()).logits.numpy()
    actual = pair.ours(float32_backend).logits(tokens)
    assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("case", CASES)
def test_float32_gradients_are_within_the_bound_for_every_parameter(case: str, float32_backend: Any) -> None:
    batch = masked_batch()
    pair = pair_of(case, torch.float32)
    loss, gradients = loss_and_gradients(pair.ours(float32_backend), batch, 1 / batch.n_supervised)
    theirs_loss, theirs_gradients = theirs(pair, batch)
    expected_loss, expected = truth(case)
    assert theirs_loss == pytest.approx(expected_loss, rel=1e-5)  # the double formulas are those of the real model
    assert outside_bound(theirs_gradients, expected) == []
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert outside_bound(gradients, expected) == []


@pytest.mark.parametrize("case", ["llama", "llama rope_freqs", "qwen2", "qwen3"])
def test_packed_documents_do_not_see_each_other(case: str) -> None:
    rng = np.random.default_rng(5)
    document = [rng.integers(0, VOCAB_SIZE, n, dtype=np.int32) for n in (9, 2, 13, 20, 5)]
    batch = pack([document[:3], document[3:]], 27)
    pair = pair_of(case, torch.float64)
    expected_loss, expected = theirs(pair, batch)
    loss, gradients = loss_and_gradients(pair.ours(DOUBLE), batch, 1 / batch.n_supervised)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    deviation, name = worst_deviation(gradients, expected)
    assert deviation <= 1e-8, f"{name} is off by {deviation:.2e}"


def test_packed_documents_in_float32_are_within_the_bound(float32_backend: Any) -> None:
    rng = np.random.default_rng(6)
    document = [rng.integers(0, VOCAB_SIZE, n, dtype=np.int32) for n in (40, 33, 2, 50, 61, 9)]
    batch = pack([document[:3], document[3:]], 120)
    _, expected = theirs(pair_of("llama", torch.float64), batch)
    ours = pair_of("llama", torch.float32).ours(float32_backend)
    assert outside_bound(loss_and_gradients(ours, batch, 1 / batch.n_supervised)[1], expected) == []


def test_rope_factors_are_the_scaling_that_transformers_applies() -> None:
    pair = pair_of("llama rope_freqs", torch.float32)
    size = pair.spec.head_dim
    plain = pair.spec.rope_theta ** -(np.arange(0, size, 2) / size)
    assert pair.rope_factors is not None
    assert len(set(pair.rope_factors.tolist())) > 2  # some kept, some stretched, some between
    expected = pair.hf.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(plain / pair.rope_factors, expected, rtol=1e-6)
