"""Kernels of merges that are linear in the models: sums of products, and the weighted sum."""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ZERO = np.float64(0.0)


@kernel(exact=True)
def sum_weighted(models, coefficients, out, block):
    """Σ cᵢ·xᵢ in the order of the models.

    models: float32 [N, n]. coefficients: float32 [N]. out: float32 [n]. block: int64 [1], elements worked on at a time.
    """
    for start in range(0, out.size, block[0]):
        stop = min(start + block[0], out.size)
        merged, values = out[start:stop], models[0, start:stop]
        coefficient = coefficients[0]
        for j in range(merged.size):
            merged[j] = coefficient * values[j]
        for i in range(1, models.shape[0]):
            values, coefficient = models[i, start:stop], coefficients[i]
            for j in range(merged.size):
                merged[j] += coefficient * values[j]


@kernel()
def dot_products(models, products, n_models):
    """xᵢ·xⱼ of each row, in double precision.

    models: float32 [N·r, C]. products: float64 [N², r], those of i ≤ j are written at i·N + j. n_models: int64 [1].
    """
    count = n_models[0]
    n_rows = models.shape[0] // count
    for row in range(n_rows):
        for i in range(count):
            first = models[i * n_rows + row]
            for j in range(i, count):
                second = models[j * n_rows + row]
                total = _ZERO
                for k in range(first.size):
                    total += np.float64(first[k]) * np.float64(second[k])
                products[i * count + j, row] = total
