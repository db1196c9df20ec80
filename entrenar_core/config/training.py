"""The `training` section: how long, how often it looks up, and where and on what it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from entrenar_core.config.base import AnyCase, Conflict, Section, UserPath


class EarlyStopping(Section):
    """Stop when the validation loss no longer falls."""

    patience: int = Field(ge=1, description="evaluations without improvement before training stops")
    min_delta: float = Field(default=0.0, ge=0, description="a smaller fall of the loss is no improvement")


class Training(Section):
    """The run: its length, rhythm and place."""

    max_steps: int | None = Field(default=None, ge=1, description="number of optimizer steps")
    epochs: int | None = Field(
        default_factory=lambda known: 1 if known["max_steps"] is None else None,
        ge=1,
        description="passes over the training data; default: 1 if max_steps is not set",
    )
    grad_accum: int = Field(default=1, ge=1, description="batches whose gradients are summed for one optimizer step")
    seed: int = Field(default=42, ge=0, lt=2**63, description="start of every random draw")
    compute_dtype: Annotated[Literal["auto", "float32", "bfloat16"], AnyCase] = Field(
        default="auto",
        description="number type of activations and matrix products; sums, losses and trained weights are float32;"
        " auto: bfloat16 on a GPU, float32 on the CPU",
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, more time"
    )
    eval_every: int | None = Field(
        default=None, ge=1, description="steps between evaluations; default: the end of each epoch and of the run"
    )
    save_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between checkpoints, besides the best; default: only when the run ends or is stopped",
    )
    keep_last: int = Field(default=2, ge=1, description="how many of the newest checkpoints are kept, besides the best")
    log_every: int = Field(default=10, ge=1, description="steps between lines when the output is not a terminal")
    early_stopping: EarlyStopping | None = Field(
        default=None, description="stop when the validation loss no longer falls"
    )
    output_dir: Annotated[str, UserPath] = Field(
        default="runs/default",
        min_length=1,
        description="folder for everything that is written; default: runs/<config name>",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], AnyCase] = Field(
        default="auto",
        description="what the run computes on; auto: an NVIDIA GPU if there is one and the run is long enough for it",
    )
    deterministic: bool = Field(
        default=False, description="equal runs give equal bits on a GPU too; on the CPU they always do"
    )
    threads: int | None = Field(
        default=None, ge=1, le=4096, description="CPU threads; default: one for each physical core"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if "epochs" in given and "max_steps" in given:
            yield Conflict("max_steps", "cannot go together with training.epochs", "keep one of them")
        if given.get("device") == "cpu" and given.get("compute_dtype") == "bfloat16":
            yield Conflict("compute_dtype", "bfloat16 needs a GPU", "leave it out, or set training.device: cuda")
