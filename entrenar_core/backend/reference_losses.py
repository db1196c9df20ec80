"""Losses of the reference backend: cross-entropy, and a student's distance from its teacher, as their formulas read.

A teacher knows the probabilities Q of some outcomes, of which a student gives P: one for each column, or K columns and
the rest as one. With s the columns' log-softmax at temperature T and D a divergence, dD/dz_j =
(1/T)·(p_j/P_g·v_g - p_j·Σ v) where g is the outcome of column j and v_g = P_g·dD/dP_g. Divergences are computed in
double, whatever the backend's own precision: of what is nearly equal they are small differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.parameters import DistillationParams

NDArray = np.ndarray[Any, np.dtype[Any]]


class ReferenceLosses:
    """The part of `Backend` that measures and differentiates logits."""

    def cross_entropy(self, logits: NDArray, labels: NDArray, grad_scale: float | None) -> NDArray:
        rows = np.arange(len(labels))
        with np.errstate(invalid="ignore"):  # a row of all -inf is NaN, as in softmax
            shifted = logits - logits.max(axis=-1, keepdims=True)
        exponentials = np.exp(shifted)
        totals = exponentials.sum(axis=-1)
        losses = np.log(totals) - shifted[rows, labels]
        if grad_scale is not None:
            np.divide(exponentials, totals[:, None], out=logits)
            logits[rows, labels] -= 1
            logits *= float(grad_scale)
        return losses

    def log_softmax(self, logits: NDArray, temperature: float) -> None:
        logits /= float(temperature)
        logits -= _log_sum_exp(logits)

    def distillation(
        self,
        logits: NDArray,
        teacher: NDArray,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        compared = logits[:, : teacher.shape[1]].astype(np.float64)
        if params.kind == "logit_mse":
            divergences, slopes = _squared_error(compared, teacher)
        else:
            log_p = _log_softmax(compared, params.temperature)
            divergences, v = _divergence(log_p, teacher, params)
            with np.errstate(invalid="ignore"):  # infinite from a token that the teacher rules out
                slopes = (v - np.exp(log_p) * v.sum(axis=-1, keepdims=True)) * float(params.temperature)
        losses = self._add_cross_entropy(logits, slopes, targets, weights, params, scale)
        return divergences.astype(logits.dtype), losses

    def distillation_top_k(
        self,
        logits: NDArray,
        ids: NDArray,
        values: NDArray,
        log_tail: NDArray,
        n: int,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        if ids.shape[1] == n:
            teacher = np.empty((len(logits), n), logits.dtype)
            np.put_along_axis(teacher, ids, values, axis=-1)
            return self.distillation(logits, teacher, targets, weights, params, scale)
        compared = logits[:, :n].astype(np.float64)
        if params.kind == "logit_mse":
            divergences, known = _squared_error(np.take_along_axis(compared, ids, axis=-1), values)
            slopes = np.zeros_like(compared)
            np.put_along_axis(slopes, ids, known, axis=-1)
        else:
            log_p = _log_softmax(compared, params.temperature)
            rest = log_p.copy()
            np.put_along_axis(rest, ids, -np.inf, axis=-1)
            rest_sum = _log_sum_exp(rest)
            outcomes = np.concatenate([np.take_along_axis(log_p, ids, axis=-1), rest_sum], axis=-1)
            divergences, v = _divergence(outcomes, np.concatenate([values, log_tail[:, None]], axis=-1), params)
            slopes = np.exp(rest - rest_sum) * v[:, -1:]
            np.put_along_axis(slopes, ids, v[:, :-1], axis=-1)
            slopes -= np.exp(log_p) * v.sum(axis=-1, keepdims=True)
            slopes *= float(params.temperature)
        losses = self._add_cross_entropy(logits, slopes, targets, weights, params, scale)
        return divergences.astype(logits.dtype), losses

    def take_columns(self, x: NDArray, columns: NDArray) -> NDArray:
        return np.take(x, columns, axis=1)

    def add_to_columns(self, x: NDArray, columns: NDArray, values: NDArray) -> None:
        x[:, columns] += values

    def _add_cross_entropy(
        self,
        logits: NDArray,
        slopes: NDArray,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> NDArray:
        """Cross-entropies [M]; with a scale the whole gradient replaces the logits, given the divergences' slopes."""
        grad = logits if scale is not None else logits.copy()
        if params.alpha < 1:
            assert targets is not None
            losses = self.cross_entropy(grad, targets, None if scale is None else scale * (1 - params.alpha))
        else:
            losses = np.zeros(len(logits), logits.dtype)
            grad[...] = 0
        if scale is not None:
            factors = scale * params.alpha * (1 if weights is None else weights[:, None])
            grad[:, : slopes.shape[1]] += factors * slopes
        return losses


def _squared_error(student: NDArray, teacher: NDArray) -> tuple[NDArray, NDArray]:
    """Mean of squares [M] and its slopes."""
    difference = student - teacher
    return np.square(difference).mean(axis=-1), difference * (2 / difference.shape[1])


def _divergence(log_p: NDArray, log_q: NDArray, params: DistillationParams) -> tuple[NDArray, NDArray]:
    """D·T² [M] of outcomes P [M, G] from the teacher's Q, and P·dD/dP.

    Terms are those of Q·log(Q/P) - Q + P, which sum to the same and are never negative.
    """
    log_q = log_q.astype(np.float64)
    p, q = np.exp(log_p), np.exp(log_q)
    with np.errstate(invalid="ignore"):  # where both are impossible
        gap = log_q - log_p
    forward, reverse = _times(q, gap) - q + p, _times(p, -gap) - p + q
    if params.kind == "forward_kl":
        terms, v = forward, -q
    elif params.kind == "reverse_kl":
        terms, v = reverse, _times(p, -gap)
    elif params.kind == "symmetric_kl":
        terms, v = (forward + reverse) / 2, (_times(p, -gap) - q) / 2
    else:
        teacher_share, student_share = params.beta, 1 - params.beta
        log_m = np.logaddexp(log_q + np.log(teacher_share), log_p + np.log(student_share))
        v = student_share * _times(p, log_p - log_m)
        terms = teacher_share * _times(q, log_q - log_m) + v
    return terms.sum(axis=-1) * float(params.temperature) ** 2, v


def _times(probabilities: NDArray, values: NDArray) -> NDArray:
    """Their product, 0 where the probability is."""
    with np.errstate(invalid="ignore"):  # what is infinite there
        return np.where(probabilities > 0, probabilities * values, 0)


def _log_sum_exp(x: NDArray) -> NDArray:
    """[M, 1], without overflow."""
    largest = x.max(axis=-1, keepdims=True)
    return largest + np.log(np.exp(x - largest).sum(axis=-1, keepdims=True))


def _log_softmax(logits: NDArray, temperature: float) -> NDArray:
    scaled = logits / float(temperature)
    return scaled - _log_sum_exp(scaled)
