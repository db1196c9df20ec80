"""Divergence from a teacher and cross-entropy of rows of logits [M, V], their gradient written over the logits.

A row is first passed over for its maximum and for the two sums that its softmaxes need: at temperature T over the n
columns that the teacher knows, and at 1 over all. Then it goes through `divergence` in blocks. With p = softmax(z/T),
the gradient is a·(v - p·Σv) + c·(softmax(z) - onehot), where a and c hold all factors. Softmax(z) is a power of p where
T is 1 or 2, which spares an exponential.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.divergence import LOGIT_MSE, outcomes, squared_error, total_of
from entrenar_core.backend.cpu_kernels.elementary import ZERO, exp, maximum
from entrenar_core.jit import kernel

_BLOCK = 1024
"""Columns at a time: what is known of them stays in the first-level cache."""


@kernel()
def log_softmax(logits, inverse_temperature, start, stop):
    inverse_temperature = np.float32(inverse_temperature)
    for m in range(start, stop):
        row = logits[m]
        largest = maximum(row)
        total = ZERO
        for i in range(row.size):
            total += exp((row[i] - largest) * inverse_temperature)
        log_total = np.log(total)
        for i in range(row.size):
            row[i] = (row[i] - largest) * inverse_temperature - log_total


@kernel()
def softmax_sums(row, largest, inverse_temperature, power):
    """Σ e^((z-largest)/T) over the first n columns, and Σ e^(z-largest) over the same unless the power is -1.

    That is the power of e^(z/T) that makes e^z: 1 or 2, or 0 for any other.
    """
    tempered = ZERO
    plain = ZERO
    if power == 2:
        for i in range(row.size):
            e = exp((row[i] - largest) * inverse_temperature)
            tempered += e
            plain += e * e
    elif power == 0:
        for i in range(row.size):
            tempered += exp((row[i] - largest) * inverse_temperature)
            plain += exp(row[i] - largest)
    else:
        for i in range(row.size):
            tempered += exp((row[i] - largest) * inverse_temperature)
        plain = tempered
    return tempered, plain


@kernel()
def with_columns(rest, largest, plain, power):
    """The largest logit and Σ e^(z-largest) of a row, given both for the columns before its `rest`."""
    if rest.size == 0 or power < 0:
        return largest, plain
    top = max(largest, maximum(rest))
    plain = plain * exp(largest - top)
    for i in range(rest.size):
        plain += exp(rest[i] - top)
    return top, plain


@kernel()
def student(row, largest, inverse_temperature, log_total, log_p, p):
    """Logs of the student's probabilities of `count` columns, and the probabilities."""
    for i in range(row.size):
        x = (row[i] - largest) * inverse_temperature - log_total
        log_p[i] = x
        p[i] = exp(x)


@kernel()
def write_known(row, p, v, v_sum, factor, power, plain_factor, top):
    """row = factor·(v - p·v_sum) + plain_factor·p^power, or plain_factor·e^(z-top) if the power is 0."""
    if power == 1:
        for i in range(row.size):
            row[i] = factor * (v[i] - p[i] * v_sum) + plain_factor * p[i]
    elif power == 2:
        for i in range(row.size):
            row[i] = factor * (v[i] - p[i] * v_sum) + plain_factor * (p[i] * p[i])
    elif power == 0:
        for i in range(row.size):
            plain = plain_factor * exp(row[i] - top)
            row[i] = factor * (v[i] - p[i] * v_sum) + plain
    else:
        for i in range(row.size):
            row[i] = factor * (v[i] - p[i] * v_sum)


@kernel()
def write_tail(row, largest, inverse_temperature, factor, power, plain_factor, top):
    """row = factor·e + plain_factor·e^power with e = e^((z-largest)/T), or plain_factor·e^(z-top) if the power is 0."""
    if power == 2:
        for i in range(row.size):
            e = exp((row[i] - largest) * inverse_temperature)
            row[i] = factor * e + plain_factor * (e * e)
    elif power == 0:
        for i in range(row.size):
            plain = plain_factor * exp(row[i] - top)
            row[i] = factor * exp((row[i] - largest) * inverse_temperature) + plain
    else:
        total_factor = factor + plain_factor if power == 1 else factor
        for i in range(row.size):
            row[i] = total_factor * exp((row[i] - largest) * inverse_temperature)


@kernel()
def write_ids(row, ids, z, p, v, v_sum, factor, plain_factor, top):
    """`write_known` for some columns, whose logits are z."""
    for i in range(ids.size):
        row[ids[i]] = factor * (v[i] - p[i] * v_sum) + plain_factor * exp(z[i] - top)


@kernel()
def write_plain(row, plain_factor, top):
    """row = plain_factor·e^(z-top)."""
    for i in range(row.size):
        row[i] = plain_factor * exp(row[i] - top)


@kernel()
def compare(row, known, largest, inverse_temperature, log_total, kind, beta, p, v):
    """The divergence of a row of logits from what the teacher knows, and Σv; fills v and, if Σv counts, p."""
    if kind == LOGIT_MSE:
        return squared_error(row, known, v), ZERO
    log_p = np.empty(_BLOCK, np.float32)
    divergence, v_sum = ZERO, ZERO
    for first in range(0, row.size, _BLOCK):
        last = min(first + _BLOCK, row.size)
        student(row[first:last], largest, inverse_temperature, log_total, log_p, p[first:last])
        divergence += outcomes(kind, beta, log_p, p[first:last], known[first:last], v[first:last])
        v_sum += total_of(v[first:last])
    return divergence, v_sum


@kernel()
def distillation(
    logits,
    teacher,
    targets,
    weights,
    divergences,
    losses,
    kind,
    temperature,
    beta,
    power,
    factors,
    with_grad,
    start,
    stop,
):
    """factors: scale·alpha·temperature and scale·(1-alpha). power: see `softmax_sums`; for logit_mse -1 or 0.

    With power -1 the losses mean nothing, and targets may be any.
    """
    n = teacher.shape[1]
    beta, inverse_temperature = np.float32(beta), np.float32(1 / temperature)
    p, v = np.zeros(n, np.float32), np.empty(n, np.float32)
    for m in range(start, stop):
        row, rest = logits[m, :n], logits[m, n:]
        largest = maximum(row)
        tempered, plain = softmax_sums(row, largest, inverse_temperature, power)
        divergence, v_sum = compare(row, teacher[m], largest, inverse_temperature, np.log(tempered), kind, beta, p, v)
        divergences[m] = divergence * temperature * temperature
        top, plain = with_columns(rest, largest, plain, power)
        losses[m] = np.log(plain) - (logits[m, targets[m]] - top)
        if with_grad:
            plain_factor = np.float32(factors[1]) / plain
            share = plain_factor * exp(largest - top) * tempered**power if power > 0 else plain_factor
            write_known(row, p, v, v_sum, np.float32(factors[0] * weights[m]), power, share, top)
            write_plain(rest, plain_factor, top)
            logits[m, targets[m]] -= np.float32(factors[1])


@kernel()
def distillation_top_k(
    logits,
    ids,
    values,
    log_tail,
    n,
    targets,
    weights,
    divergences,
    losses,
    kind,
    temperature,
    beta,
    power,
    factors,
    with_grad,
    start,
    stop,
):
    """See `distillation`. Known logits are taken out of their row, so that all sums over it are those of the tail."""
    k = ids.shape[1]
    beta, inverse_temperature = np.float32(beta), np.float32(1 / temperature)
    own, p, v = np.empty(k, np.float32), np.zeros(k + 1, np.float32), np.zeros(k + 1, np.float32)
    log_p, log_q = np.empty(k + 1, np.float32), np.empty(k + 1, np.float32)
    for m in range(start, stop):
        row, rest, known = logits[m, :n], logits[m, n:], ids[m]
        target = logits[m, targets[m]]
        take_out(row, known, own)
        log_q[:k], log_q[k] = values[m], log_tail[m]

        tail_largest = maximum(row)
        largest = max(tail_largest, maximum(own))
        below = tail_largest - largest
        tail_tempered, tail_plain = softmax_sums(row, tail_largest, inverse_temperature, power)
        tempered, plain = softmax_sums(own, largest, inverse_temperature, power)
        tempered += tail_tempered * exp(below * inverse_temperature)
        plain += tail_plain * exp(below)
        log_p[k] = below * inverse_temperature + np.log(tail_tempered / tempered)
        divergence, v_sum = compare_known(
            own, log_q, largest, inverse_temperature, np.log(tempered), kind, beta, log_p, p, v
        )
        divergences[m] = divergence * temperature * temperature
        top, plain = with_columns(rest, largest, plain, power)
        losses[m] = np.log(plain) - (target - top)
        if with_grad:
            factor, plain_factor = np.float32(factors[0] * weights[m]), np.float32(factors[1]) / plain
            tail_factor = factor * (v[k] - p[k] * v_sum) / tail_tempered
            share = plain_factor * exp(tail_largest - top) if power > 0 else plain_factor
            write_tail(row, tail_largest, inverse_temperature, tail_factor, power, share, top)
            write_plain(rest, plain_factor, top)
            write_ids(row, known, own, p, v, v_sum, factor, plain_factor, top)
            logits[m, targets[m]] -= np.float32(factors[1])
        else:
            put_back(row, known, own)


@kernel()
def compare_known(own, log_q, largest, inverse_temperature, log_total, kind, beta, log_p, p, v):
    """`compare` for the known logits and, as one more outcome whose log_p is there already, the tail."""
    k = own.size
    if kind == LOGIT_MSE:
        return squared_error(own, log_q[:k], v[:k]), ZERO
    student(own, largest, inverse_temperature, log_total, log_p[:k], p[:k])
    p[k] = exp(log_p[k])
    return outcomes(kind, beta, log_p, p, log_q, v), total_of(v)


@kernel()
def take_out(row, ids, taken):
    for i in range(ids.size):
        taken[i] = row[ids[i]]
        row[ids[i]] = -np.inf


@kernel()
def put_back(row, ids, taken):
    for i in range(ids.size):
        row[ids[i]] = taken[i]
