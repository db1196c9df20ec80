"""What evaluation measures on the CUDA backend, its kernels run on the host, is what the reference measures."""

from __future__ import annotations

import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.evaluation.divergence import divergence
from entrenar_core.evaluation.likelihood import perplexity
from tests.cuda_host import host_runtime
from tests.evaluation.models import batches_of, model_of

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
BATCHES = batches_of(9, 5)


@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_perplexity_and_divergence(compute_dtype: str, tolerance: float) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), compute_dtype)
    found, truth = perplexity(model_of(0, backend), BATCHES), perplexity(model_of(), BATCHES)
    assert found.tokens == truth.tokens
    assert found.mean_nll.value == pytest.approx(truth.mean_nll.value, rel=tolerance)
    apart, truly = (
        divergence(model_of(1, backend), model_of(0, backend), BATCHES),
        divergence(model_of(1), model_of(0), BATCHES),
    )
    assert apart.kl.value == pytest.approx(truly.kl.value, rel=3 * tolerance)
