"""The kernels that are compared with torch: the same arrays, ours on the CPU backend, torch's in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[[], Any]

SOFTMAX_SHAPE = (1000, 10000)
ADAM_SIZE = 1_000_000
MATMUL_SIZE = 512
NORM_SHAPE = (1024, 768)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Standard normal float32 arrays."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def our_cases(threads: int) -> dict[str, Step]:
    """Kernels of the CPU backend by name."""
    from entrenar_core.backend.cpu import CpuBackend
    from entrenar_core.backend.parameters import AdamParams

    backend = CpuBackend(threads)
    x, dy = arrays(SOFTMAX_SHAPE, SOFTMAX_SHAPE)
    y = backend.softmax(x)
    parameter, grad, m, v = arrays(*[(ADAM_SIZE,)] * 4)
    v = np.abs(v)
    adamw = AdamParams(1e-3, 0.9, 0.999, 1e-8, 0.01, decoupled=True, step=10)
    a, b, dc = arrays(*[(MATMUL_SIZE, MATMUL_SIZE)] * 3)
    h, dh, weight = arrays(NORM_SHAPE, NORM_SHAPE, NORM_SHAPE[1:])
    _, inv_rms = backend.rms_norm(h, weight, 1e-5)
    return {
        "softmax forward": lambda: backend.softmax(x),
        "softmax backward": lambda: backend.softmax_backward(dy, y),
        "AdamW 1M": lambda: backend.adam_steps([(parameter, grad, m, v)], adamw),
        "matmul 512 forward": lambda: backend.gemm(a, b),
        "matmul 512 backward": lambda: (backend.gemm(dc, b.T), backend.gemm(a.T, dc)),
        "RMSNorm forward": lambda: backend.rms_norm(h, weight, 1e-5),
        "RMSNorm backward": lambda: backend.rms_norm_backward(dh, h, weight, inv_rms, True),
    }


def torch_cases(threads: int) -> dict[str, Step]:
    """The same with torch; backward is called on its own, without the forward pass."""
    import torch

    torch.set_num_threads(threads)
    x, dy = (torch.from_numpy(array) for array in arrays(SOFTMAX_SHAPE, SOFTMAX_SHAPE))
    y = torch.softmax(x, -1)
    parameter, grad, _, _ = (torch.from_numpy(array) for array in arrays(*[(ADAM_SIZE,)] * 4))
    parameter = torch.nn.Parameter(parameter)
    parameter.grad = grad
    adamw = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.01, fused=True)
    a, b, dc = (torch.from_numpy(array) for array in arrays(*[(MATMUL_SIZE, MATMUL_SIZE)] * 3))
    h, dh, weight = (torch.from_numpy(array) for array in arrays(NORM_SHAPE, NORM_SHAPE, NORM_SHAPE[1:]))
    leaves = [h.clone().requires_grad_(), weight.clone().requires_grad_()]
    normed = torch.nn.functional.rms_norm(leaves[0], NORM_SHAPE[1:], leaves[1], 1e-5)
    return {
        "softmax forward": lambda: torch.softmax(x, -1),
        "softmax backward": lambda: torch._softmax_backward_data(dy, y, -1, torch.float32),
        "AdamW 1M": adamw.step,
        "matmul 512 forward": lambda: a @ b,
        "matmul 512 backward": lambda: (dc @ b.T, a.T @ dc),
        "RMSNorm forward": lambda: torch.nn.functional.rms_norm(h, NORM_SHAPE[1:], weight, 1e-5),
        "RMSNorm backward": lambda: torch.autograd.grad(normed, leaves, dh, retain_graph=True),
    }
