"""RMSNorm and LayerNorm over the rows of x [M, D], forward and backward.

Gradients of the weights are summed per block of rows into partials [blocks, D], which the caller adds in order: how
rows are grouped depends on M alone, so any number of threads gives the same bytes.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ONE, ZERO
from entrenar_core.jit import kernel


@kernel()
def rms_norm(x, weight, y, inv_rms, eps, start, stop):
    width = np.float32(x.shape[1])
    eps = np.float32(eps)
    for m in range(start, stop):
        row = x[m]
        out = y[m]
        squares = ZERO
        for i in range(row.size):
            squares += row[i] * row[i]
        inverse = ONE / np.sqrt(squares / width + eps)
        for i in range(row.size):
            out[i] = weight[i] * (row[i] * inverse)
        inv_rms[m] = inverse


@kernel()
def rms_norm_row_backward(grad, row, weight, inverse, out):
    """out = inverse·(g - x·<g, x>·inverse²/D) with g = grad·weight, for one row x of D values."""
    dot = ZERO
    for i in range(row.size):
        dot += grad[i] * weight[i] * row[i]
    along = dot * inverse * inverse / np.float32(row.size)
    for i in range(row.size):
        out[i] = inverse * (grad[i] * weight[i] - row[i] * along)


@kernel()
def rms_norm_backward(dy, x, weight, inv_rms, dx, partials, rows_per_block, need_weight, start, stop):
    """Blocks start ... stop of rows_per_block rows each; partials are written if need_weight."""
    for block in range(start, stop):
        partial = partials[block]
        partial[:] = ZERO
        for m in range(block * rows_per_block, min((block + 1) * rows_per_block, x.shape[0])):
            row = x[m]
            grad = dy[m]
            inverse = inv_rms[m]
            rms_norm_row_backward(grad, row, weight, inverse, dx[m])
            if need_weight:
                for i in range(row.size):
                    partial[i] += grad[i] * (row[i] * inverse)


@kernel()
def layer_norm(x, gamma, beta, y, mean, inv_std, eps, start, stop):
    width = np.float32(x.shape[1])
    eps = np.float32(eps)
    for m in range(start, stop):
        row = x[m]
        out = y[m]
        total = ZERO
        for i in range(row.size):
            total += row[i]
        centre = total / width
        squares = ZERO
        for i in range(row.size):
            squares += (row[i] - centre) * (row[i] - centre)
        inverse = ONE / np.sqrt(squares / width + eps)
        for i in range(row.size):
            out[i] = gamma[i] * ((row[i] - centre) * inverse) + beta[i]
        mean[m] = centre
        inv_std[m] = inverse


@kernel()
def layer_norm_backward(dy, x, gamma, mean, inv_std, dx, partials, rows_per_block, start, stop):
    """Blocks start ... stop; partials [2·blocks, D] hold gamma's sum in row 2·block, beta's in the next."""
    width = np.float32(x.shape[1])
    for block in range(start, stop):
        dgamma = partials[2 * block]
        dbeta = partials[2 * block + 1]
        dgamma[:] = ZERO
        dbeta[:] = ZERO
        for m in range(block * rows_per_block, min((block + 1) * rows_per_block, x.shape[0])):
            row = x[m]
            grad = dy[m]
            out = dx[m]
            centre = mean[m]
            inverse = inv_std[m]
            total = ZERO
            dot = ZERO
            for i in range(row.size):
                total += grad[i] * gamma[i]
                dot += grad[i] * gamma[i] * (row[i] - centre)
            average = total / width
            along = dot * inverse * inverse / width
            for i in range(row.size):
                out[i] = inverse * (grad[i] * gamma[i] - average - (row[i] - centre) * along)
                dgamma[i] += grad[i] * ((row[i] - centre) * inverse)
                dbeta[i] += grad[i]
