"""What a distillation adds to the time of a run: making the cache of the teachers, and the student's writing."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.distill.teachers import Teachers
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.module import PassKey
from entrenar_core.stages.distill import Distillation
from entrenar_core.stages.measure import WARM_UP_TOKENS, part_of
from entrenar_core.stages.plan_types import DistillPlan, StepPlan, TimePlan

TIMED_TOKENS = 8
"""Tokens that the student writes after each prompt to see how long that takes."""

ROWS = 256
"""Targets that the teachers are asked for at a time."""


def with_writing(
    time: TimePlan,
    writer: OnPolicy | None,
    student: LanguageModel,
    batch: Batch,
    steps: StepPlan,
) -> TimePlan:
    """The time of a run whose student writes some of the batches itself; timed on `batch` with a few tokens."""
    if writer is None:
        return time
    few = min(TIMED_TOKENS, writer.max_tokens)
    brief = replace(writer, max_tokens=few)
    brief.written(student, part_of(batch, 1, WARM_UP_TOKENS), PassKey(0, 0, 0))
    started = perf_counter()
    brief.written(student, batch, PassKey(0, 0, 0))  # which brings tokens to the host
    one = (perf_counter() - started) * writer.max_tokens / few
    per_step = writer.fraction * steps.batches_per_step * one
    seconds = time.seconds_per_step + per_step
    return TimePlan(
        seconds_per_step=seconds,
        seconds=time.seconds + steps.steps * per_step,
        tokens_per_second=time.tokens_per_second * time.seconds_per_step / seconds,
        method=f"{time.method}; the student's writing scaled up from {few} tokens",
    )


def with_cache(
    time: TimePlan, plan: DistillPlan | None, distillation: Distillation, backend: Backend, batch: Batch
) -> TimePlan:
    """The time of a run that first writes what is missing of its cache; timed on `batch`."""
    cache = None if plan is None else plan.cache
    if cache is None or not cache.missing or not cache.n_bytes or not cache.targets:
        return time
    teachers = distillation.running(backend)
    _ask(teachers, part_of(batch, 1, WARM_UP_TOKENS))
    started = perf_counter()
    _ask(teachers, batch)
    backend.synchronize()
    left = cache.targets * cache.missing / cache.n_bytes
    seconds = (perf_counter() - started) / batch.n_supervised * left
    return replace(time, seconds=time.seconds + seconds, method=f"{time.method}; {seconds:.0f} s of it for the cache")


def _ask(teachers: Teachers, batch: Batch) -> None:
    """What the teachers say of every target of a batch."""
    rows, count = teachers.rows(batch), int((batch.labels >= 0).sum())
    for start in range(0, count, ROWS):
        rows.chunk(slice(start, min(start + ROWS, count)))
