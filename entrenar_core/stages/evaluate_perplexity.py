"""`entrenar eval --task perplexity`: how well a model predicts texts, or the answers of pairs and chats, and how far
its predictions are from those of a reference."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from entrenar_core.backend.base import Backend
from entrenar_core.errors import ConfigError
from entrenar_core.evaluation.arithmetic import check_arithmetic, llama_cpp_arithmetic
from entrenar_core.evaluation.divergence import Divergence, divergence
from entrenar_core.evaluation.likelihood import Perplexity, bytes_of_tokens, perplexity
from entrenar_core.events import Progress, Reporter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.stages.evaluated_model import EvaluatedModel, open_evaluated
from entrenar_core.stages.evaluation_reference import Reference, check_reference
from entrenar_core.stages.evaluation_report import Measure
from entrenar_core.stages.evaluation_settings import Arithmetic, EvaluationSettings
from entrenar_core.stages.evaluation_windows import ScoredData, scored_data
from entrenar_core.stages.kernels import compiling_said


@dataclass(frozen=True)
class LikelihoodResult:
    """What the scored tokens cost a model, and maybe how it differs from a reference.

    reading: how the data were read, in words. On rows, the loss is the validation loss of training.
    """

    cost: Perplexity
    reading: str
    arithmetic: Arithmetic
    divergence: Divergence | None = None
    reference: Path | None = None

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What models are compared by."""
        found = {"perplexity": self.cost.value, "loss": self.cost.mean_nll.value, "bits/byte": self.cost.bits_per_byte}
        if self.divergence is not None:
            found |= {"KL": self.divergence.kl.value, "same top": self.divergence.same_top.value}
        return found

    def as_json(self) -> Mapping[str, object]:
        """All figures; those of a divergence under its name."""
        found: dict[str, object] = {**self.cost.as_json(), "reading": self.reading, "arithmetic": self.arithmetic}
        if self.divergence is not None:
            found["divergence"] = {"reference": str(self.reference), **self.divergence.as_json()}
        return found


def prepare_perplexity(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> Measure:
    """Tokenize the data for a model, and see that the reference fits it.

    Raises:
        EntrenarError: the data, the reference or the arithmetic cannot be used.
    """
    wanted, context = settings.likelihood, model.spec.context_length
    reference = None
    if wanted.arithmetic is Arithmetic.LLAMA_CPP:
        _check_files_alone(model)
    if wanted.reference is not None:
        with closing(open_evaluated(wanted.reference)) as other:
            if wanted.arithmetic is Arithmetic.LLAMA_CPP:
                _check_files_alone(other)
            reference = check_reference(model, other, wanted.reference, reporter)
        context = min(context, reference.context)
    scored = scored_data(model, data, settings, context, reporter)
    return partial(_measure, model, reference, scored, wanted.arithmetic, reporter)


def _check_files_alone(model: EvaluatedModel) -> None:
    if model.adapter is not None:
        raise ConfigError(
            f"{model.name} is computed with an adapter",
            where="--arithmetic",
            hint="llama.cpp's arithmetic is known for the matrices of a file: merge the adapter first",
        )
    check_arithmetic({name: info.type_name for name, info in model.file.tensors.items() if len(info.shape) > 1})


def _measure(
    model: EvaluatedModel,
    reference: Reference | None,
    scored: ScoredData,
    arithmetic: Arithmetic,
    reporter: Reporter,
    backend: Backend,
) -> LikelihoodResult:
    def progress(done: int) -> None:
        reporter.emit(Progress("evaluating", done, scored.n_rows))

    with ExitStack() as stack:
        loaded = _loaded(stack, model, arithmetic, backend)
        token_bytes = bytes_of_tokens(model.tokenizer, model.spec.vocab_size)
        if reference is None:
            with compiling_said("the model", reporter):
                cost = perplexity(loaded, scored.batches(), token_bytes=token_bytes, after_rows=progress)
            return LikelihoodResult(cost, scored.reading, arithmetic)
        other = stack.enter_context(closing(open_evaluated(reference.path)))
        base = _loaded(stack, other, arithmetic, backend)
        with compiling_said("the models", reporter):
            found = divergence(
                loaded,
                base,
                scored.batches(),
                vocabulary=reference.vocabulary,
                token_bytes=token_bytes,
                after_rows=progress,
            )
        return LikelihoodResult(found.cost, scored.reading, arithmetic, found, reference.path)


def _loaded(stack: ExitStack, model: EvaluatedModel, arithmetic: Arithmetic, backend: Backend) -> LanguageModel:
    loaded = model.load(backend)
    if arithmetic is Arithmetic.LLAMA_CPP:
        stack.enter_context(llama_cpp_arithmetic(loaded))
    return loaded
