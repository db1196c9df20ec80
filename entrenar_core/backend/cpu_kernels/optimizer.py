"""Fused optimizer steps and the reductions of gradient clipping, over flat arrays."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ONE
from entrenar_core.jit import kernel

_MAGNITUDE_BITS = np.int32(0x7FFFFFFF)


@kernel()
def adam(parameter, grad, m, v, coefficients, start, stop):
    """One pass over everything.

    coefficients float32[10]: gradient scale, L2 decay, decoupled keep (1 - lr·wd), beta1, 1 - beta1, beta2, 1 - beta2,
    lr/(1 - beta1^t), 1/√(1 - beta2^t), eps.
    """
    parameter = parameter[start:stop]
    grad = grad[start:stop]
    m = m[start:stop]
    v = v[start:stop]
    grad_scale = coefficients[0]
    l2_decay = coefficients[1]
    keep = coefficients[2]
    beta1 = coefficients[3]
    rest1 = coefficients[4]
    beta2 = coefficients[5]
    rest2 = coefficients[6]
    rate = coefficients[7]
    inverse_root = coefficients[8]
    eps = coefficients[9]
    for i in range(parameter.size):
        p = parameter[i]
        g = grad[i] * grad_scale + l2_decay * p
        first = beta1 * m[i] + rest1 * g
        second = beta2 * v[i] + rest2 * (g * g)
        m[i] = first
        v[i] = second
        parameter[i] = p * keep - rate * first / (np.sqrt(second) * inverse_root + eps)


@kernel()
def sgd(parameter, grad, lr, weight_decay, grad_scale, start, stop):
    lr = np.float32(lr)
    weight_decay = np.float32(weight_decay)
    grad_scale = np.float32(grad_scale)
    parameter = parameter[start:stop]
    grad = grad[start:stop]
    for i in range(parameter.size):
        parameter[i] -= lr * (grad[i] * grad_scale + weight_decay * parameter[i])


@kernel()
def sgd_momentum(parameter, grad, buffer, lr, weight_decay, grad_scale, momentum, nesterov, first_step, start, stop):
    """On the first step the buffer becomes the gradient, whatever it held."""
    lr = np.float32(lr)
    weight_decay = np.float32(weight_decay)
    grad_scale = np.float32(grad_scale)
    momentum = np.float32(momentum)
    ahead = momentum if nesterov else np.float32(0.0)
    own = ONE if nesterov else np.float32(0.0)
    parameter = parameter[start:stop]
    grad = grad[start:stop]
    buffer = buffer[start:stop]
    if first_step:
        for i in range(buffer.size):
            buffer[i] = np.float32(0.0)
    for i in range(parameter.size):
        g = grad[i] * grad_scale + weight_decay * parameter[i]
        moving = momentum * buffer[i] + g
        buffer[i] = moving
        direction = own * g + ahead * moving if nesterov else moving
        parameter[i] -= lr * direction


@kernel()
def sums_of_squares(x, sums, block_size, start, stop):
    """sums float64 [blocks]: Σ x² of each block of block_size elements."""
    for block in range(start, stop):
        part = x[block * block_size : (block + 1) * block_size]
        total = 0.0
        for i in range(part.size):
            value = np.float64(part[i])
            total += value * value
        sums[block] = total


@kernel()
def largest_magnitude_bits(x, largest, block_size, start, stop):
    """largest int32 [blocks]: the largest |x| of each block as bits; 0x7F800000 (infinity) or more is not finite."""
    for block in range(start, stop):
        part = x[block * block_size : (block + 1) * block_size].view(np.int32)
        most = np.int32(0)
        for i in range(part.size):
            most = max(most, part[i] & _MAGNITUDE_BITS)
        largest[block] = most
