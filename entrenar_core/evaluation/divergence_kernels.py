"""The kernel that compares two models on rows of logits, in one pass over them once their largest are known.

With p and d = q - p the logits of the reference and what the model's exceed them by, and means taken over the
reference's distribution, KL(p ‖ q) = ln(1 + mean(d) + mean(φ(d))) - mean(d) with φ(d) = e^d - 1 - d. No two numbers of
almost the same size are subtracted, so a divergence of 1e-9 still has its digits.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import exp, maximum
from entrenar_core.jit import kernel

_ZERO = np.float64(0.0)
_SMALL = np.float32(0.25)

# φ(d)/d² = 1/2! + d/3! + d²/4! + ...
_C0, _C1, _C2, _C3, _C4, _C5 = (np.float32(1 / factorial) for factorial in (2, 6, 24, 120, 720, 5040))


@kernel(ordered=True)
def _excess(d):
    """e^d - 1 - d for |d| ≤ 1/4, within 2e-7 of its value."""
    return d * d * (_C0 + d * (_C1 + d * (_C2 + d * (_C3 + d * (_C4 + d * _C5)))))


@kernel()
def _first(row, value):
    """The index of the first element that is `value`, -1 if there is none."""
    for i in range(row.size):
        if row[i] == value:
            return i
    return -1


@kernel()
def compare_rows(reference, logits, labels, kl, nll, reference_nll, same_top, start, stop):
    """What two models say of rows start ... stop, with sums in double precision.

    reference, logits: float32 [M, n]. labels: int32 [M]. kl, nll, reference_nll: float64 [M], written: KL(reference ‖
    model), never negative, and -ln of what the model and the reference give the label. same_top: bool [M], written:
    whether the first largest element is the same.
    """
    for m in range(start, stop):
        p_row, q_row = reference[m], logits[m]
        p_largest, q_largest = maximum(p_row), maximum(q_row)
        p_total, q_total, mean, excess = _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(p_row.size):
            p, q = p_row[i] - p_largest, q_row[i] - q_largest
            d = q - p
            p_mass, q_mass = exp(p), exp(q)
            p_total += np.float64(p_mass)
            q_total += np.float64(q_mass)
            mean += np.float64(p_mass * d)
            excess += np.float64(p_mass * _excess(d) if abs(d) <= _SMALL else q_mass - p_mass - p_mass * d)
        p_log, q_log = np.log(p_total), np.log(q_total)
        mean, excess = mean / p_total, excess / p_total
        divergence = np.log1p(mean + excess) - mean
        label = labels[m]
        kl[m] = _ZERO if divergence < _ZERO else divergence
        nll[m] = q_log - np.float64(q_row[label] - q_largest)
        reference_nll[m] = p_log - np.float64(p_row[label] - p_largest)
        same_top[m] = _first(p_row, p_largest) == _first(q_row, q_largest)
