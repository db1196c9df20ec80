"""Cross-entropy of rows of logits [M, V] with integer labels, the gradient written over the logits."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ZERO, exp, maximum
from entrenar_core.jit import kernel


@kernel()
def cross_entropy(logits, labels, losses, start, stop):
    for m in range(start, stop):
        row = logits[m]
        largest = maximum(row)
        total = ZERO
        for i in range(row.size):
            total += exp(row[i] - largest)
        losses[m] = np.log(total) - (row[labels[m]] - largest)


@kernel()
def cross_entropy_with_grad(logits, labels, losses, grad_scale, start, stop):
    """A row is passed over three times but read from memory once: 32 000 logits fit in the second-level cache."""
    grad_scale = np.float32(grad_scale)
    for m in range(start, stop):
        row = logits[m]
        largest = maximum(row)
        target = row[labels[m]] - largest
        total = ZERO
        for i in range(row.size):
            e = exp(row[i] - largest)
            row[i] = e
            total += e
        factor = grad_scale / total
        for i in range(row.size):
            row[i] *= factor
        row[labels[m]] -= grad_scale
        losses[m] = np.log(total) - target
