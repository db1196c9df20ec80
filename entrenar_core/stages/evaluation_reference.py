"""The reference of an evaluation: another model that reads the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entrenar_core.errors import ConfigError
from entrenar_core.evaluation.vocabulary import shared_tokens
from entrenar_core.events import Notice, Reporter
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reference:
    """A reference that fits. vocabulary: how many tokens both have. context: the most tokens that it reads at once."""

    path: Path
    vocabulary: int
    context: int


def check_reference(model: EvaluatedModel, other: EvaluatedModel, path: Path, reporter: Reporter) -> Reference:
    """See that a model can be compared with a reference.

    Args:
        model: what is measured.
        other: the reference, open. path: where it is.
        reporter: hears when one vocabulary is the other one, padded.

    Raises:
        ModelError: the vocabularies differ.
        ConfigError: the reference does not predict tokens.
    """
    if other.head is not None:
        message = f"{other.name} answers with a head, and a reference predicts tokens"
        raise ConfigError(message, where="--reference", hint="name a language model")
    shared = shared_tokens(_texts(model.tokenizer), _texts(other.tokenizer), model.name, other.name)
    sizes = model.spec.vocab_size, other.spec.vocab_size
    vocabulary = min(shared, *sizes)
    if sizes[0] != sizes[1]:
        message = f"{model.name} has {sizes[0]} tokens and {other.name} {sizes[1]}"
        reporter.emit(Notice("info", f"{message}: they are compared on the first {vocabulary}, which both have"))
    return Reference(path, vocabulary, other.spec.context_length)


def _texts(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token_text(token_id) for token_id in range(tokenizer.vocab_size)]
