"""What a dry run finds out about a run before anything is trained or written; filled in by the stage, shown by the CLI.

Field names are the keys of ``--dry-run --json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from entrenar_core.stages.disk import DiskEstimate
from entrenar_core.stages.estimate import MemoryEstimate
from entrenar_core.stages.fit import Verdict
from entrenar_core.stages.preview import Segment


@dataclass(frozen=True)
class ColumnUse:
    """A column of a data set. `role`: what it is used as, or None where it is ignored."""

    name: str
    kind: str
    reason: str
    role: str | None


@dataclass(frozen=True)
class SourcePlan:
    """One source of data. `reason`: why this task; `columns`: all of them, in file order."""

    path: str
    rows: int
    n_bytes: int
    weight: float
    task: str
    reason: str
    columns: tuple[ColumnUse, ...]


@dataclass(frozen=True)
class TokenCounts:
    """What became of the rows of a data set.

    Attributes:
        samples: examples that are trained on.
        total_tokens: positions of one epoch.
        supervised_tokens: targets of one epoch.
        overlong_samples: rows that were longer than the window.
        truncated_tokens: targets that were cut off and are in no example.
        refused: rows left out, by reason.
        is_estimate: the numbers are scaled up from a part of streamed data.
    """

    samples: int
    total_tokens: int
    supervised_tokens: int
    overlong_samples: int = 0
    truncated_tokens: int = 0
    refused: Mapping[str, int] | None = None
    is_estimate: bool = False


@dataclass(frozen=True)
class StepPlan:
    """The rhythm of a run. `batch_rows` and `row_width` are those of the largest batch."""

    steps: int
    epochs: float
    batches_per_step: int
    batch_rows: int
    row_width: int
    evaluations: int = 0
    checkpoints: int = 1


@dataclass(frozen=True)
class TimePlan:
    """How long a run will take. `method`: what the number rests on; `seconds_per_step` is the mean."""

    seconds_per_step: float
    seconds: float
    tokens_per_second: float
    method: str


@dataclass(frozen=True)
class SamplePreview:
    """One example as the model will see it. `tokens` and `supervised` count all of it, also what is not shown."""

    source: str
    tokens: int
    supervised: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class TeacherFacts:
    """One teacher. `share`: of all, which together are 1; `coverage`: share of the student's tokens that it has."""

    path: str
    type: str
    n_bytes: int
    layers: int
    hidden_size: int
    share: float
    coverage: float


@dataclass(frozen=True)
class StudentFacts:
    """A model that is made from the first teacher. `made_of`: in words, what of the teacher it is."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    parameters: int
    made_of: str


@dataclass(frozen=True)
class TeacherCacheFacts:
    """Predictions on disk, for `targets` tokens. `missing`: bytes that the run writes first. None: not known before the
    data are tokenized."""

    path: str
    top_k: int
    vocab_size: int
    dtype: str
    targets: int | None
    n_bytes: int | None
    missing: int | None


@dataclass(frozen=True)
class BlockPair:
    """A block of the student that follows one of the teacher, both counted from 0."""

    student: int
    teacher: int


@dataclass(frozen=True)
class DistillPlan:
    """What a run learns from besides the data. `compared`: tokens that the student and all teachers have."""

    objective: str
    teachers: tuple[TeacherFacts, ...]
    compared: int
    vocab_size: int
    student: StudentFacts | None = None
    layers: tuple[BlockPair, ...] = ()
    cache: TeacherCacheFacts | None = None
    on_policy: str = ""


@dataclass(frozen=True)
class DeviceMemoryPlan:
    """What a run takes of a GPU's memory, and whether that is free there."""

    memory: MemoryEstimate
    verdict: Verdict


@dataclass(frozen=True)
class RunPlan:
    """Everything that is known before the first step. device: what it computes on, and why; empty where that needs no
    word. device_memory: on a GPU, beside what the host takes."""

    model: str
    architecture: str
    parameters: int
    trainable_parameters: int
    method: str
    train: tuple[SourcePlan, ...]
    val: tuple[SourcePlan, ...]
    train_tokens: TokenCounts
    val_tokens: TokenCounts | None
    steps: StepPlan
    memory: MemoryEstimate
    memory_verdict: Verdict
    disk: DiskEstimate
    time: TimePlan | None
    output_dir: str
    previews: tuple[SamplePreview, ...] = ()
    warnings: tuple[str, ...] = ()
    distill: DistillPlan | None = None
    device: str = ""
    device_memory: DeviceMemoryPlan | None = None
