"""What a stage tells the outside world: small frozen events, and the protocol of whoever listens.

Stages emit events and know nothing of terminals; the command line turns them into rich output or JSON lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class RunStarted:
    """Sent once, before the first step. `objective` says what is learned besides the data, and from whom."""

    model: str
    architecture: str
    parameters: int
    trainable_parameters: int
    train_examples: int
    val_examples: int
    total_steps: int
    first_step: int
    threads: int
    device: str
    output_dir: Path
    objective: str = ""


@dataclass(frozen=True)
class Step:
    """One optimizer step. `loss` is the mean over the step's supervised tokens, `seconds` its wall time.

    `parts` has the means of what the loss is made of, before they are weighted (``divergence``, ``cross_entropy``,
    ``layers``), and is empty for a loss of one part. `peak_memory_bytes` is the process's, `peak_device_bytes` what it
    has held on a GPU (None without one).
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float
    peak_memory_bytes: int
    parts: Mapping[str, float] = field(default_factory=dict)
    peak_device_bytes: int | None = None


@dataclass(frozen=True)
class Eval:
    """A pass over the validation set. `loss` is the mean over its supervised tokens.

    `metrics` has what a head is measured by (``accuracy``, ``macro_f1``; ``mse``, ``mae``, ``r2``), None for one that
    the data do not define, and is empty for a language model.
    """

    step: int
    loss: float
    supervised_tokens: int
    seconds: float
    is_best: bool
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizationStarted:
    """Quantization-aware training: from the step after `step` on, forward passes and evaluations see rounded weights.

    `matrices` says how many of them have which GGML type.
    """

    step: int
    matrices: Mapping[str, int]


@dataclass(frozen=True)
class Saved:
    """A file or folder that is now complete on disk.

    `kind`: checkpoint, model, adapter, head, report, metrics or config.
    """

    kind: str
    path: Path
    n_bytes: int


@dataclass(frozen=True)
class Progress:
    """Work before or after training that takes a while: tokenizing, loading, writing."""

    task: str
    done: int
    total: int


@dataclass(frozen=True)
class Compiling:
    """Kernels that the cache of this machine does not hold are compiled now; `what` they are for (GGML types, a model).
    Sent before the first of them."""

    what: str


@dataclass(frozen=True)
class Notice:
    """Something skipped, approximated or worth knowing. `level`: info or warning."""

    level: str
    message: str


@dataclass(frozen=True)
class Quantizing:
    """How far a file is written in other types; sent a few times a second. Bytes are those of the source."""

    done_bytes: int
    total_bytes: int
    tensors_done: int
    tensors: int
    tensor: str


@dataclass(frozen=True)
class Quantized:
    """A file in other types that is complete on disk.

    `types` counts tensors by GGML type. `rmse` and `sqnr_db` (of all tensors that were rounded) are None where errors
    were not measured or there are none.
    """

    path: Path
    source_bytes: int
    n_bytes: int
    bits_per_weight: float
    types: Mapping[str, int]
    seconds: float
    peak_memory_bytes: int
    rmse: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Merging:
    """How far a merge is; sent a few times a second. Pieces are those of all tensors together."""

    done: int
    total: int
    tensors_done: int
    tensors: int


@dataclass(frozen=True)
class Merged:
    """A merged model that is complete on disk.

    `models` counts those that are joined; with `over_base` by their changes against one more, the base. `source_bytes`
    is the size of the files of all. `types` counts tensors by GGML type.
    """

    path: Path
    method: str
    models: int
    source_bytes: int
    n_bytes: int
    types: Mapping[str, int]
    seconds: float
    peak_memory_bytes: int
    over_base: bool = False


@dataclass(frozen=True)
class Generated:
    """A piece of generated text."""

    text: str


@dataclass(frozen=True)
class Predicted:
    """A file of predictions that is complete on disk.

    `rows` are those of the file; of them `without_text` have no prediction, and `truncated` were read only in part.
    `metrics` judge the `judged` rows whose true class or number the data have; see `Eval`.
    """

    path: Path
    rows: int
    without_text: int
    truncated: int
    judged: int
    metrics: Mapping[str, float | None]
    seconds: float


@dataclass(frozen=True)
class Rounded:
    """What rounding cost the tensors of a written model.

    Attributes:
        step: whose weights these are.
        tensors: how many were encoded with an error.
        median_change_share: the median, over the tensors that training changed, of the error over the change (RMS).
        lost: tensors in which the error is larger than the change.
        errors: for each tensor its type_name, n_values, rmse, max_error, sqnr_db, change_rms and change_share.
    """

    step: int
    tensors: int
    median_change_share: float | None
    lost: int
    errors: Mapping[str, Mapping[str, float | str | None]]


@dataclass(frozen=True)
class Finished:
    """Sent once, at the end of a run. `result_step`: the step whose weights are in the files."""

    steps: int
    reason: str
    train_loss: float
    val_loss: float | None
    seconds: float
    result_step: int = 0


Event = (
    RunStarted
    | Step
    | Eval
    | QuantizationStarted
    | Saved
    | Progress
    | Compiling
    | Notice
    | Generated
    | Predicted
    | Quantizing
    | Quantized
    | Merging
    | Merged
    | Rounded
    | Finished
)


class Reporter(Protocol):
    """Receives events in order, on the thread that runs the stage."""

    def emit(self, event: Event) -> None: ...


class SilentReporter:
    """Swallows every event; for tests and for library use."""

    def emit(self, event: Event) -> None:
        del event
