"""The model that a run trains, on a backend: loaded, random, or shaped from a teacher.

Of a student that is narrower than its teacher, the teacher first reads some rows of the training data: what matters
least there is left out.
"""

from __future__ import annotations

from entrenar_core.backend.base import Backend
from entrenar_core.config.quantize import Calibration
from entrenar_core.config.root import Config
from entrenar_core.distill.student import StudentPlan
from entrenar_core.distill.student_weights import Activity, build_student
from entrenar_core.events import SilentReporter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.calibrate import measure

ROWS, ROW_LENGTH = 32, 512
"""Rows of training data, and most tokens of one, that the teacher reads: enough to rank what it has."""


def build_model(config: Config, base: BaseModel, backend: Backend) -> LanguageModel:
    """What `base` describes, with the adapters and the packed base that the config asks for.

    Raises:
        ModelError, FormatError, ConfigError: it cannot be built.
        DataError, TokenizerError: the data that a student is chosen by cannot be read.
    """
    if base.student is None:
        return base.build(config, backend)
    activity = _activity(config, base.student) if base.student.needs_activity else {}
    checkpointing = config.training.activation_checkpointing
    return build_student(base.student, backend, config.training.seed, activity, checkpoint_activations=checkpointing)


def _activity(config: Config, plan: StudentPlan) -> Activity:
    """What the teacher's matrices are multiplied by."""
    length = min(ROW_LENGTH, plan.teacher_spec.context_length, config.data.seq_len or ROW_LENGTH)
    found = measure(
        plan.teacher,
        Calibration(rows=ROWS, seq_len=length),
        threads=config.training.threads,
        device=config.training.device,
        reporter=SilentReporter(),
        data=config.data,
        with_output=True,
    )
    return found.importance()
