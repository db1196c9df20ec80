"""How far a student's outcomes P are from a teacher's Q, and which way they should go.

A divergence D is a sum over outcomes; v = P·dD/dP is what the gradient of the logits is made of. Blocks of outcomes
come as log P, P and log Q. All terms are those of Q·log(Q/P) - Q + P, which add up to the same as Q·log(Q/P) and are
never negative: rounding errors of log-sum-exps, which all outcomes share, count by their squares only.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import HALF, ONE, TWO, ZERO, exp, expm1_negative, log1p
from entrenar_core.jit import kernel

FORWARD_KL = 0
REVERSE_KL = 1
SYMMETRIC_KL = 2
JENSEN_SHANNON = 3
LOGIT_MSE = 4

_NEAR = np.float32(0.1)
_C3 = np.float32(-1 / 6)
_C4 = np.float32(1 / 24)
_C5 = np.float32(-1 / 120)
_C6 = np.float32(1 / 720)


@kernel(ordered=True)
def times(probability, value):
    """Their product, 0 where the probability is, whatever the value."""
    return ZERO if probability == ZERO else probability * value


@kernel(ordered=True)
def relative_entropy(a, log_ratio, b):
    """a·log(a/b) - a + b ≥ 0, given log(a/b); by its series where a and b are nearly the same."""
    x = log_ratio
    series = (((_C6 * x + _C5) * x + _C4) * x + _C3) * x + HALF
    return a * (x * x * series) if abs(x) < _NEAR else times(a, x) - a + b


@kernel()
def forward_kl(log_p, p, log_q, v):
    total = ZERO
    for i in range(v.size):
        q = exp(log_q[i])
        total += relative_entropy(q, log_q[i] - log_p[i], p[i])
        v[i] = -q
    return total


@kernel()
def reverse_kl(log_p, p, log_q, v):
    total = ZERO
    for i in range(v.size):
        gap = log_p[i] - log_q[i]
        total += relative_entropy(p[i], gap, exp(log_q[i]))
        v[i] = times(p[i], gap)
    return total


@kernel()
def symmetric_kl(log_p, p, log_q, v):
    total = ZERO
    for i in range(v.size):
        q = exp(log_q[i])
        gap = log_p[i] - log_q[i]
        total += relative_entropy(p[i], gap, q) + relative_entropy(q, -gap, p[i])
        v[i] = HALF * (times(p[i], gap) - q)
    return HALF * total


@kernel()
def jensen_shannon(log_p, p, log_q, v, teacher_share, student_share):
    """With d = log Q - log P and M the mixture, log Q/M = -log(t + s·e^-d) and log P/M = -log(s + t·e^d): whichever
    exponent is negative is computed, the other follows, as their difference is d."""
    total = ZERO
    for i in range(v.size):
        q = exp(log_q[i])
        gap = log_q[i] - log_p[i]
        own, other = (teacher_share, student_share) if gap > ZERO else (student_share, teacher_share)
        decay = expm1_negative(-abs(gap))
        log_larger = -log1p(other * decay, own + other * (decay + ONE))
        log_smaller = log_larger - abs(gap)
        q_ratio, p_ratio = (log_larger, log_smaller) if gap > ZERO else (log_smaller, log_larger)
        mixture = teacher_share * q + student_share * p[i]
        total += teacher_share * relative_entropy(q, q_ratio, mixture)
        total += student_share * relative_entropy(p[i], p_ratio, mixture)
        v[i] = student_share * times(p[i], p_ratio)
    return total


@kernel()
def outcomes(kind, beta, log_p, p, log_q, v):
    """Fills v and returns their part of D."""
    if kind == FORWARD_KL:
        return forward_kl(log_p, p, log_q, v)
    if kind == REVERSE_KL:
        return reverse_kl(log_p, p, log_q, v)
    if kind == SYMMETRIC_KL:
        return symmetric_kl(log_p, p, log_q, v)
    return jensen_shannon(log_p, p, log_q, v, beta, ONE - beta)


@kernel()
def squared_error(z, known, v):
    """The mean of (z - known)², and v with its slopes: what logits have instead of outcomes."""
    total = ZERO
    per_column = TWO / np.float32(z.size)
    for i in range(z.size):
        difference = z[i] - known[i]
        total += difference * difference
        v[i] = per_column * difference
    return HALF * per_column * total


@kernel()
def total_of(values):
    """Their sum."""
    total = ZERO
    for i in range(values.size):
        total += values[i]
    return total
