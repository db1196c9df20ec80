"""Multiple choice by log-likelihood: the answer that a model finds likeliest behind the question.

The tokens that all choices of a question begin with are read once, into a KV cache; each choice is read behind them and
then forgotten again. Questions of like length are read together, padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from entrenar_core.autograd.tape import no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.errors import ModelError
from entrenar_core.evaluation.choice_prompts import Continuation
from entrenar_core.evaluation.scored_rows import row_parts
from entrenar_core.evaluation.statistics import Estimate, share_with_error
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.kv_cache import KVCache

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceResult:
    """How often the right choice is the likeliest, and the likeliest for each of its bytes.

    Attributes:
        accuracy: by the log-likelihood of the whole answer.
        accuracy_per_byte: by the log-likelihood over the answer's length in bytes of UTF-8.
        chance: what guessing reaches on average.
        truncated: questions that were cut on the left to fit the model's context.
    """

    accuracy: Estimate
    accuracy_per_byte: Estimate
    chance: float
    questions: int
    truncated: int = 0

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What models are compared by."""
        return {"accuracy": self.accuracy.value, "accuracy per byte": self.accuracy_per_byte.value}

    def as_json(self) -> dict[str, object]:
        """Its figures, flat."""
        return {
            "accuracy": self.accuracy.value,
            "accuracy_error": self.accuracy.standard_error,
            "accuracy_per_byte": self.accuracy_per_byte.value,
            "accuracy_per_byte_error": self.accuracy_per_byte.standard_error,
            "chance": self.chance,
            "questions": self.questions,
            "truncated": self.truncated,
        }


def judge_choices(
    scores: Sequence[Float64Array], n_bytes: Sequence[Sequence[int]], answers: Sequence[int], truncated: int = 0
) -> ChoiceResult:
    """From log-likelihoods to accuracies; of equals the first counts.

    Args:
        scores: log-likelihoods of the choices of each question.
        n_bytes: lengths of the choices.
        answers: index of the right one.
    """
    plain = sum(int(one.argmax()) == answer for one, answer in zip(scores, answers, strict=True))
    per_byte = sum(
        int((one / np.maximum(sizes, 1)).argmax()) == answer
        for one, sizes, answer in zip(scores, n_bytes, answers, strict=True)
    )
    return ChoiceResult(
        accuracy=share_with_error(plain, len(scores)),
        accuracy_per_byte=share_with_error(per_byte, len(scores)),
        chance=float(np.mean([1.0 / len(one) for one in scores])),
        questions=len(scores),
        truncated=truncated,
    )


def log_likelihoods(
    model: LanguageModel,
    questions: Sequence[Sequence[Continuation]],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Float64Array]:
    """log p(answer | context) in nats for each choice of each question, float64 [choices].

    Args:
        questions: the choices of each; their tokens less one must fit the model's context.
        batch_size: questions that are read together.
        progress: is told how many questions are done.

    Raises:
        ModelError: the model computes numbers that are not finite.
    """
    lengths = np.array([max(len(choice.tokens) for choice in one) for one in questions])
    order = np.argsort(-lengths, kind="stable")
    found: list[Float64Array] = [np.empty(0)] * len(questions)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size].tolist()
        for number, scores in zip(chosen, _scores_of_batch(model, [questions[one] for one in chosen]), strict=True):
            found[number] = scores
        progress(begin + len(chosen))
    return found


def _scores_of_batch(model: LanguageModel, questions: Sequence[Sequence[Continuation]]) -> list[Float64Array]:
    shared = np.array([shared_tokens(one) for one in questions], np.int32)
    width = int(shared.max())
    rest = max(len(choice.tokens) - 1 - n for one, n in zip(questions, shared, strict=True) for choice in one)
    cache = KVCache(model.spec, model.backend, width + int(rest), len(questions))
    scores: list[Float64Array] = []
    with no_grad():
        if width:
            _read_shared(model, questions, shared, cache)
        for choices in zip_longest(*questions):
            scores.append(_scores_behind(model, choices, shared, cache))
            cache.rewind(width)
    found = np.stack(scores, axis=1)
    if not np.isfinite(found).all():
        raise ModelError("the model computes numbers that are not finite", hint="its weights are damaged")
    return [row[: len(one)] for row, one in zip(found, questions, strict=True)]


def shared_tokens(choices: Sequence[Continuation]) -> int:
    """How many tokens at the beginning all choices have in common, up to the one that the first judged is told by."""
    most = min(choice.start for choice in choices) - 1
    first = choices[0].tokens
    for choice in choices[1:]:
        differ = (place for place, (a, b) in enumerate(zip(first, choice.tokens, strict=False)) if a != b)
        most = min(most, next(differ, most))
    return max(most, 0)


def _read_shared(
    model: LanguageModel, questions: Sequence[Sequence[Continuation]], shared: np.ndarray, cache: KVCache
) -> None:
    """Fill the cache with the beginnings, each at the end of its row; padding sees only itself."""
    width = int(shared.max())
    tokens = np.zeros((len(questions), width), np.int32)
    for row, (one, count) in enumerate(zip(questions, shared, strict=True)):
        tokens[row, width - count :] = one[0].tokens[:count]
    column, padding = np.arange(width, dtype=np.int32)[None, :], (width - shared)[:, None]
    model.hidden_states(tokens, np.maximum(column - padding, 0), np.minimum(padding, column), cache=cache)


def _scores_behind(
    model: LanguageModel, choices: Sequence[Continuation | None], shared: np.ndarray, cache: KVCache
) -> Float64Array:
    """The log-likelihood of one choice for each row, [B], read behind what the cache holds; 0 where there is none."""
    width = int(shared.max())
    inputs = [() if one is None else one.tokens[n:-1] for one, n in zip(choices, shared, strict=True)]
    shape = (len(choices), max(1, *map(len, inputs)))
    tokens, labels = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for row, (one, count) in enumerate(zip(choices, shared, strict=True)):
        if one is not None:
            tokens[row, : len(inputs[row])] = inputs[row]
            judged = slice(one.start - 1 - int(count), len(inputs[row]))
            labels[row, judged] = one.tokens[one.start :]
    positions = shared[:, None] + np.arange(shape[1], dtype=np.int32)[None, :]
    lower = np.broadcast_to((width - shared)[:, None], shape)
    positions = np.minimum(positions, model.spec.context_length - 1)  # padding on the right goes beyond the context
    hidden = model.hidden_states(tokens, positions, np.ascontiguousarray(lower), cache=cache)
    places = np.flatnonzero(labels >= 0)
    losses = token_losses(model, hidden.data.reshape(-1, model.spec.hidden_size), places, labels.reshape(-1)[places])
    scores = np.zeros(len(choices))
    np.subtract.at(scores, places // shape[1], losses)
    return scores


def token_losses(model: LanguageModel, hidden: Array, places: np.ndarray, labels: np.ndarray) -> Float64Array:
    """-log p(label) [M] at rows `places` [M] of hidden states [N, D], on the host; few logits are held at a time."""
    backend = model.backend
    found = np.empty(len(places))
    for part in row_parts(len(places), model):
        logits = model.output.forward(
            Tensor(backend.take_rows(hidden, backend.asarray(places[part], np.int32)), backend), None
        )
        found[part] = backend.to_host(backend.cross_entropy(logits.data, backend.asarray(labels[part]), None))
    return found
