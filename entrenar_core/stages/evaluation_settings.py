"""What `entrenar eval` is asked for: the task, the data, and what belongs to single tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from entrenar_core.backend.select import Device


class EvaluationTask(StrEnum):
    """What is measured; the values are those of ``--task``."""

    PERPLEXITY = "perplexity"
    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    MULTIPLE_CHOICE = "multiple-choice"
    EXACT_MATCH = "exact-match"


@dataclass(frozen=True)
class ChoiceSettings:
    """How multiple-choice questions are asked.

    Attributes:
        template: text with columns in braces; see `evaluation.choice_prompts`. None: its default.
        shots: solved questions in front of each. shots_data: where they are from; None: the data themselves.
        seed: of their draw.
    """

    template: str | None = None
    shots: int = 0
    shots_data: str | None = None
    seed: int = 0


class WindowKind(StrEnum):
    """Windows over one long text; see `evaluation.windows`."""

    LLAMA_CPP = "llama.cpp"
    SLIDING = "sliding"


class Arithmetic(StrEnum):
    """What matrices multiply: activations as they are, or rounded as llama.cpp's CPU kernels do."""

    EXACT = "exact"
    LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True)
class LikelihoodSettings:
    """How texts are scored, by the task perplexity.

    Attributes:
        windows: of a long text, or of all rows as one; None: those of llama.cpp for a plain text, else each row by
            itself as in training.
        context: tokens of a window; None: 512, or the model's context if that is less.
        stride: tokens from one sliding window to the next; None: half a window.
        chunks: the most windows that are scored, from the first on; None: all.
        reference: a GGUF model or the folder of a run whose predictions the model's are compared with.
        arithmetic: see there; of the reference too.
    """

    windows: WindowKind | None = None
    context: int | None = None
    stride: int | None = None
    chunks: int | None = None
    reference: Path | None = None
    arithmetic: Arithmetic = Arithmetic.EXACT

    def first_given(self) -> str | None:
        """The option that is set, if one is; in the order of the attributes."""
        options = {"context": "--ctx"}
        default = LikelihoodSettings()
        names = (name for name in vars(self) if getattr(self, name) != getattr(default, name))
        return next((options.get(name, f"--{name}") for name in names), None)


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are generated and judged.

    Attributes:
        regex: finds the answer in what is generated and in what is expected, in its one group; the last match counts.
            None: the whole texts are compared.
        max_tokens: the most that are generated. stop: a text that ends an answer, and is no part of it.
        temperature, top_p, seed: see `model.generation.Sampling`.
    """

    regex: str | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class EvaluationSettings:
    """How models are evaluated.

    Attributes:
        task: None: inferred from the model and the columns.
        columns: column names by role; what is not named is inferred.
        chat_template, separator: as in the `data` section; None: as the model was trained, else that section's default.
        seq_len: longest example in tokens; None: as trained, else the model's context, at most 1024.
        batch_size: rows of one forward pass; None: as trained, else 8.
        limit: rows that are used, from the first on; None: all.
        adapter: a GGUF LoRA adapter for every model. base: where the base model of a run's adapter is now.
        threads: CPU threads; None: one for each core.
        device: what models run on; see `backend.select`.
        measures_speed: also time reading and generating.
        likelihood: of the task perplexity. choices: of multiple-choice. answers: of exact-match.
    """

    task: EvaluationTask | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    separator: str | None = None
    seq_len: int | None = None
    batch_size: int | None = None
    limit: int | None = None
    adapter: Path | None = None
    base: Path | None = None
    threads: int | None = None
    device: Device = "auto"
    measures_speed: bool = False
    likelihood: LikelihoodSettings = LikelihoodSettings()
    choices: ChoiceSettings = ChoiceSettings()
    answers: AnswerSettings = AnswerSettings()
