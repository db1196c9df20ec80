"""Perplexity: how well a model predicts the tokens of a text, with the error that so many tokens leave.

For the same windows the figures are those of llama-perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.errors import DataError, ModelError
from entrenar_core.evaluation.scored_rows import ScoredRows, row_parts
from entrenar_core.evaluation.statistics import Estimate, mean_with_error
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.tokenizer.tokenizer import Tokenizer

Float64Array = npt.NDArray[np.float64]
AfterRows = Callable[[int], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Perplexity:
    """What the scored tokens of some batches cost a model.

    Attributes:
        tokens: how many were scored.
        mean_nll: the mean of -ln p(token), in nats, with its standard error.
        n_bytes: bytes of text that the scored tokens stand for; None: not known.
    """

    tokens: int
    mean_nll: Estimate
    n_bytes: int | None = None

    @property
    def value(self) -> float:
        """e^mean_nll; infinite beyond the range of a float."""
        return exponential(self.mean_nll.value)

    @property
    def standard_error(self) -> float:
        """Of `value`, to first order: value times the error of the mean, as llama-perplexity has it."""
        return self.value * self.mean_nll.standard_error

    @property
    def estimate(self) -> Estimate:
        """`value` and `standard_error`."""
        return Estimate(self.value, self.standard_error)

    @property
    def bits_per_byte(self) -> float | None:
        """The cost of all tokens in bits over the bytes that they stand for; it compares models of any tokenizer."""
        if not self.n_bytes:
            return None
        return self.mean_nll.value * self.tokens / math.log(2) / self.n_bytes

    def as_json(self) -> dict[str, object]:
        """Its figures, flat."""
        return {
            "perplexity": self.value,
            "perplexity_error": self.standard_error,
            "tokens": self.tokens,
            "loss": self.mean_nll.value,
            "loss_error": self.mean_nll.standard_error,
            "bits_per_byte": self.bits_per_byte,
        }


def exponential(value: float) -> float:
    """e^value, infinity where it is beyond a float's range."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def go_on() -> bool:
    """Never stop."""
    return False


def perplexity(
    model: LanguageModel,
    batches: Iterable[Batch],
    *,
    token_bytes: npt.NDArray[np.int32] | None = None,
    after_rows: AfterRows = lambda count: None,
    should_stop: ShouldStop = go_on,
) -> Perplexity:
    """The perplexity of a model over all supervised tokens of some batches.

    Args:
        model: on any backend; nothing is recorded and no dropout drawn.
        batches: labels are scored where they are not `IGNORE`.
        token_bytes: int32 [V], the bytes of text of each token, for `bits_per_byte`; see `bytes_of_tokens`.
        after_rows: hears after each batch how many rows are done.
        should_stop: asked before each batch but the first; what was scored until then is the result.

    Raises:
        ModelError: a token is outside the vocabulary, or the model computes numbers that are not finite.
        DataError: no token is scored.
    """
    losses: list[Float64Array] = []
    n_bytes, done = 0, 0
    for batch in batches:
        if done and should_stop():
            break
        losses.append(token_losses(model, batch))
        n_bytes += scored_bytes(batch, token_bytes)
        done += len(batch.tokens)
        after_rows(done)
    all_losses = scored(losses)
    return Perplexity(len(all_losses), mean_with_error(all_losses), None if token_bytes is None else n_bytes)


def token_losses(model: LanguageModel, batch: Batch) -> Float64Array:
    """-ln p(label) of each supervised token of a batch, float64 [M], row by row from left to right.

    Raises:
        ModelError: a token is outside the vocabulary, or the model computes numbers that are not finite.
    """
    rows = ScoredRows(model, batch)
    found = np.empty(len(rows), np.float64)
    for part in row_parts(len(rows), model):
        found[part] = model.backend.to_host(model.backend.cross_entropy(rows.logits(part), rows.labels[part], None))
    check_finite(found)
    return found


def scored_bytes(batch: Batch, token_bytes: npt.NDArray[np.int32] | None) -> int:
    """The bytes of a batch's supervised tokens, given those of each token; 0 if these are not known."""
    return 0 if token_bytes is None else int(token_bytes[batch.labels[batch.labels != IGNORE]].sum(dtype=np.int64))


def bytes_of_tokens(tokenizer: Tokenizer, vocab_size: int) -> npt.NDArray[np.int32]:
    """How many bytes of text each token stands for, int32 [V]; none for control tokens and for those that pad."""
    found = np.zeros(vocab_size, np.int32)
    for token_id in range(min(tokenizer.vocab_size, vocab_size)):
        found[token_id] = len(tokenizer.token_bytes(token_id))
    return found


def check_finite(*arrays: Float64Array) -> None:
    """Refuse what a broken model computes.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    if not all(np.isfinite(values).all() for values in arrays):
        raise ModelError("the model computes numbers that are not finite", hint="its weights are damaged")


def scored(parts: list[Float64Array]) -> Float64Array:
    """What was found batch by batch, in one array.

    Raises:
        DataError: there is nothing.
    """
    found = np.concatenate([np.empty(0), *parts])
    if not len(found):
        raise DataError("no token of the data is scored", hint="the data are empty, or no row has an answer")
    return found
