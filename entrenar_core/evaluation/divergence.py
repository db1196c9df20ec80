"""How far a model is from a reference: Kullback-Leibler divergence and agreement, token by token.

The figures are those of ``llama-perplexity --kl-divergence``, each with its definition there. That program reads the
reference's log-probabilities from a file in which they have 16 bits, so a divergence of almost nothing comes out a
little different, even negative, there; here it is computed from the reference's logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.data.batch import Batch
from entrenar_core.errors import ModelError
from entrenar_core.evaluation.likelihood import (
    AfterRows,
    Float64Array,
    Perplexity,
    ShouldStop,
    check_finite,
    exponential,
    go_on,
    scored,
    scored_bytes,
)
from entrenar_core.evaluation.scored_rows import ScoredRows, row_parts
from entrenar_core.evaluation.statistics import (
    Estimate,
    covariance_of_means,
    mean_with_error,
    percentiles,
    root_mean_square,
    share_with_error,
)
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.threads import Threads

KL_SHARES = (100, 99.9, 99, 95, 90, 50, 10, 5, 1, 0.1, 0)
CHANGE_SHARES = (100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0)
"""The percentiles that are stated of the divergences, and of the changes of the probability of the right token."""


@dataclass(frozen=True)
class TokenDivergences:
    """What two models say of n tokens, each [n].

    Attributes:
        kl: KL(reference ‖ model), in nats, float64.
        nll, reference_nll: -ln p(token) by the model and by the reference, float64.
        same_top: whether both find the same token likeliest, bool.
    """

    kl: Float64Array
    nll: Float64Array
    reference_nll: Float64Array
    same_top: npt.NDArray[np.bool_]

    @property
    def changes(self) -> Float64Array:
        """Δp: the probability of the token by the model less that by the reference."""
        return np.exp(-self.nll) - np.exp(-self.reference_nll)


@dataclass(frozen=True)
class Divergence:
    """A model (Q) beside its reference (base).

    Attributes:
        tokens: how many were scored.
        vocabulary: how many tokens of the vocabulary both have; distributions are over those.
        cost, reference_cost: what the tokens cost the model and the reference, hence PPL(Q) and PPL(base).
        correlation: of ln PPL(Q) and ln PPL(base) over the tokens; None where one of them does not vary.
        log_ratio, ratio, difference: ln(PPL(Q)/PPL(base)), PPL(Q)/PPL(base), PPL(Q) - PPL(base).
        kl: KL(base ‖ Q), in nats; kl_percentiles: by percent, 0 the smallest, 50 the median, 100 the largest.
        change, change_rms, change_percentiles: Δp, the change of the probability of the right token; a share, not
            percent.
        same_top: the share of tokens at which both find the same one likeliest.
    """

    tokens: int
    vocabulary: int
    cost: Perplexity
    reference_cost: Perplexity
    correlation: float | None
    log_ratio: Estimate
    ratio: Estimate
    difference: Estimate
    kl: Estimate
    kl_percentiles: Mapping[float, float]
    change: Estimate
    change_rms: Estimate
    change_percentiles: Mapping[float, float]
    same_top: Estimate

    def as_json(self) -> dict[str, object]:
        """Its fields; an estimate is two numbers, the second with ``_error`` added to its name."""
        found: dict[str, object] = {}
        for name, value in vars(self).items():
            if isinstance(value, Perplexity):
                prefix = "perplexity" if name == "cost" else "reference_perplexity"
                found |= {prefix: value.value, f"{prefix}_error": value.standard_error}
            elif isinstance(value, Estimate):
                found |= {name: value.value, f"{name}_error": value.standard_error}
            elif isinstance(value, Mapping):
                found[name] = {f"{share:g}": each for share, each in value.items()}
            else:
                found[name] = value
        return found


def divergence(
    model: LanguageModel,
    reference: LanguageModel,
    batches: Iterable[Batch],
    *,
    vocabulary: int | None = None,
    token_bytes: npt.NDArray[np.int32] | None = None,
    after_rows: AfterRows = lambda count: None,
    should_stop: ShouldStop = go_on,
) -> Divergence:
    """KL(reference ‖ model) and what goes with it, over all supervised tokens of some batches.

    Args:
        model, reference: on any backend; both read the same ids.
        batches: labels are scored where they are not `IGNORE`.
        vocabulary: the first so many tokens are compared, and the others left out of both; None: those both have.
        token_bytes: int32 [V], the bytes of text of each token, for the costs' bits per byte.
        after_rows: hears after each batch how many rows are done.
        should_stop: asked before each batch but the first; what was scored until then is the result.

    Raises:
        ModelError: a token is outside the vocabulary, or a model computes numbers that are not finite.
        DataError: no token is scored.
    """
    n = shared_size(model, reference, vocabulary)
    parts: list[TokenDivergences] = []
    done, n_bytes = 0, 0
    threads = Threads(model.backend.n_threads)
    try:
        for batch in batches:
            if done and should_stop():
                break
            parts.append(token_divergences(model, reference, batch, n, threads))
            n_bytes += scored_bytes(batch, token_bytes)
            done += len(batch.tokens)
            after_rows(done)
    finally:
        threads.close()
    same_top = np.concatenate([np.empty(0, np.bool_), *(part.same_top for part in parts)])
    kl = scored([part.kl for part in parts])
    nll, reference_nll = (np.concatenate(each) for each in zip(*((p.nll, p.reference_nll) for p in parts), strict=True))
    known = None if token_bytes is None else n_bytes
    return summary(TokenDivergences(kl, nll, reference_nll, same_top), n, known)


def shared_size(model: LanguageModel, reference: LanguageModel, vocabulary: int | None) -> int:
    """How many tokens are compared.

    Raises:
        ModelError: more than a model has.
    """
    most = min(model.spec.vocab_size, reference.spec.vocab_size)
    if vocabulary is not None and not 1 <= vocabulary <= most:
        raise ModelError(f"{vocabulary} tokens shall be compared, but the models share at most {most}")
    return most if vocabulary is None else vocabulary


def token_divergences(
    model: LanguageModel, reference: LanguageModel, batch: Batch, vocabulary: int, threads: Threads
) -> TokenDivergences:
    """What both models say of each supervised token of a batch, over the first `vocabulary` tokens.

    Raises:
        ModelError: a token is outside the vocabulary, or a model computes numbers that are not finite.
    """
    from entrenar_core.evaluation.divergence_kernels import compare_rows

    rows, reference_rows = ScoredRows(model, batch), ScoredRows(reference, batch)
    labels = model.backend.to_host(rows.labels)
    if len(labels) and labels.max() >= vocabulary:
        raise ModelError(f"the label {labels.max()} is none of the {vocabulary} tokens that both models have")
    kl, nll, reference_nll = np.empty((3, len(labels)))
    found = TokenDivergences(kl, nll, reference_nll, np.empty(len(labels), np.bool_))
    for part in row_parts(len(labels), model, reference):
        ours, theirs = _host_logits(rows, part, vocabulary), _host_logits(reference_rows, part, vocabulary)
        into = (found.kl[part], found.nll[part], found.reference_nll[part], found.same_top[part])
        threads.run(compare_rows, len(ours), theirs, ours, labels[part], *into)
    check_finite(found.nll, found.reference_nll, found.kl)
    return found


def _host_logits(rows: ScoredRows, part: slice, vocabulary: int) -> npt.NDArray[np.float32]:
    """float32 [m, n], rows contiguous."""
    logits = rows.model.backend.to_host(rows.logits(part))[:, :vocabulary]
    return np.ascontiguousarray(logits, np.float32)


def summary(found: TokenDivergences, vocabulary: int, n_bytes: int | None = None) -> Divergence:
    """The figures over all tokens, at least one; `n_bytes`: of their texts."""
    log_q, log_base = mean_with_error(found.nll), mean_with_error(found.reference_nll)
    covariance = covariance_of_means(found.nll, found.reference_nll)
    spread = log_q.standard_error * log_base.standard_error
    ratio_error = _root(log_q.standard_error**2 + log_base.standard_error**2 - 2 * covariance)
    log_ratio = Estimate(log_q.value - log_base.value, ratio_error)
    count, ratio = len(found.kl), exponential(log_ratio.value)
    q, base = Perplexity(count, log_q, n_bytes), Perplexity(count, log_base, n_bytes)
    joint = 2 * q.value * base.value * covariance
    difference_error = _root(q.standard_error**2 + base.standard_error**2 - joint)
    return Divergence(
        tokens=count,
        vocabulary=vocabulary,
        cost=q,
        reference_cost=base,
        correlation=covariance / spread if spread > 0 else None,
        log_ratio=log_ratio,
        ratio=Estimate(ratio, ratio * ratio_error),
        difference=Estimate(q.value - base.value, difference_error),
        kl=mean_with_error(found.kl),
        kl_percentiles=percentiles(found.kl, KL_SHARES),
        change=mean_with_error(found.changes),
        change_rms=root_mean_square(found.changes),
        change_percentiles=percentiles(found.changes, CHANGE_SHARES),
        same_top=share_with_error(int(np.count_nonzero(found.same_top)), count),
    )


def _root(square: float) -> float:
    """√square; rounding may have left a zero a little below it."""
    return math.sqrt(max(square, 0.0))
