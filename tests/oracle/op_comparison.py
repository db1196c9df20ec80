"""Holding an op against torch: the same inputs and the same random upstream gradient; value and every gradient.

The truth is torch in double. The float64 reference must agree to 1e-8 (and to 1e-12 of the norm over all gradients
where its own is zero); the float32 backends, on one thread and on two, to ‖Δ‖ ≤ 1e-4·‖truth‖ + 1e-6·(that norm), or
closer where a case asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend

BACKENDS: dict[str, Callable[[], Any]] = {
    "float64": lambda: ReferenceBackend(np.float64),
    "cpu-1-thread": lambda: CpuBackend(threads=1, debug_pool=True),
    "cpu-2-threads": lambda: CpuBackend(threads=2),
}


@dataclass(frozen=True)
class Case:
    """One op on one set of shapes.

    ours: maps the backend and our tensors to the output; theirs: maps torch's. Each takes one tensor an input.
    frozen: indices of inputs that are constants. single: the relative bar of the float32 backends.
    """

    ours: Callable[..., Tensor]
    theirs: Callable[..., Any]
    inputs: Sequence[np.ndarray]
    frozen: frozenset[int] = field(default_factory=frozenset)
    single: float = 1e-4


def normal(*sizes: int, seed: int = 0) -> np.ndarray:
    """Standard normal values that float32 holds exactly, in float64."""
    values = np.random.default_rng([seed, *sizes]).standard_normal(sizes)
    return values.astype(np.float32).astype(np.float64)


def compare(case: Case, backend: Any) -> None:
    """Fail where the op on `backend` and torch in double disagree."""
    leaves = [
        torch.tensor(array, dtype=torch.float64, requires_grad=index not in case.frozen)
        for index, array in enumerate(case.inputs)
    ]
    truth = case.theirs(*leaves)
    upstream = normal(*truth.shape, seed=1)
    truth.backward(torch.tensor(upstream))

    tensors = [
        Tensor(backend.asarray(array.copy()), backend, requires_grad=index not in case.frozen, name=f"input {index}")
        for index, array in enumerate(case.inputs)
    ]
    with Tape() as tape:
        output = case.ours(backend, *tensors)
    tape.backward(output, upstream.astype(output.data.dtype))

    trained = [index for index in range(len(tensors)) if index not in case.frozen]
    truths = [gradient_of(leaves[index]) for index in trained]
    actuals = [tensors[index].grad for index in trained]
    global_norm = float(np.sqrt(sum(np.square(grad).sum() for grad in truths)))
    relative = 1e-8 if backend.dtype == np.float64 else case.single
    assert_close(output.data, truth.detach().numpy(), 0.0, backend, "value", relative)
    for index, actual, expected in zip(trained, actuals, truths, strict=True):
        assert actual is not None, f"input {index} got no gradient"
        assert actual.dtype == backend.dtype
        assert_close(actual, expected, global_norm, backend, f"gradient of input {index}", relative)


def gradient_of(leaf: Any) -> np.ndarray:
    """Torch leaves out a gradient that is zero because nothing depends on the leaf."""
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()


def assert_close(
    actual: np.ndarray, truth: np.ndarray, global_norm: float, backend: Any, what: str, relative: float
) -> None:
    """‖actual - truth‖ within the bar of the backend's precision."""
    assert actual.shape == truth.shape, f"{what}: shape {actual.shape}, torch has {truth.shape}"
    error = float(np.linalg.norm((actual.astype(np.float64) - truth).ravel()))
    size = float(np.linalg.norm(truth.ravel()))
    absolute = 1e-12 if backend.dtype == np.float64 else 1e-6
    bar = relative * size + absolute * global_norm
    assert error <= bar, f"{what}: ‖Δ‖ = {error:.3g}, allowed {bar:.3g} (‖truth‖ = {size:.3g})"
