"""Teachers that have spoken: what they say of every target is asked for once, written down, and read from then on.

Of each target the likeliest K tokens are kept with their log-probabilities, and the mass of all others in one number.
The files are those of `data.teacher_cache`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.autograd.ops.distillation import DenseChunk, TeacherRows, TopKChunk
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.folder_lock import folder_lock
from entrenar_core.data.free_disk import free_disk_bytes
from entrenar_core.data.teacher_cache import CachePlan, TeacherCache, begin_cache, clean_up, planned_before
from entrenar_core.data.teacher_shard import SHARD_OVERHEAD, CacheDtype, TeacherLayout
from entrenar_core.distill.cache_build import build_cache
from entrenar_core.distill.targets import Int64Array, Targets, ranges_of_examples
from entrenar_core.distill.teachers import TeacherSignal
from entrenar_core.errors import FormatError, OutputError
from entrenar_core.events import Notice, Reporter

SHARD_BYTES = 8 << 20
"""Aim for a shard: what a build that is stopped or killed has to do again."""

MOST_SHARDS = 4096
"""Shards of a large cache become larger instead of more: each is a file, and a mapping of its own."""


@dataclass(frozen=True)
class CacheRequest:
    """Which cache is wanted.

    Attributes:
        folder: of the cache; made when it is built.
        key: all that the teachers' answers depend on besides the data and what follows here: see `cache_key`.
        n_tokens: that the teachers choose from.
        top_k: tokens that are kept of each target; all where there are fewer.
        dtype: of what is kept of them.
        weighted: whether targets have weights: `cache_key.gives_weights`.
        shard_bytes: for tests.
    """

    folder: Path
    key: Mapping[str, Any]
    n_tokens: int
    top_k: int
    dtype: CacheDtype = "float32"
    weighted: bool = False
    shard_bytes: int = SHARD_BYTES

    @property
    def layout(self) -> TeacherLayout:
        return TeacherLayout(min(self.top_k, self.n_tokens), self.n_tokens, self.dtype, self.weighted)

    def plan(self, targets: Targets) -> CachePlan:
        """The plan of a cache that is begun now."""
        layout = self.layout
        rows = max(1, self.shard_bytes // layout.row_bytes, -(-len(targets) // MOST_SHARDS))
        key = {
            "teacher": dict(self.key),
            "data": targets.digest,
            "vocabulary": self.n_tokens,
            "top_k": layout.top_k,
            "dtype": self.dtype,
            "weighted": self.weighted,
        }
        return CachePlan(key, layout, ranges_of_examples(targets.borders, rows))


def cache_bytes(
    n_targets: int, top_k: int, vocabulary: int, dtype: CacheDtype = "float32", *, weighted: bool = False
) -> int:
    """The most that a cache of so many targets takes on disk, before the data are known; a few percent too much at most
    where there are megabytes of it."""
    layout = TeacherLayout(min(top_k, vocabulary), vocabulary, dtype, weighted)
    columns = n_targets * layout.row_bytes
    return columns + SHARD_OVERHEAD * min(MOST_SHARDS, 2 * columns // SHARD_BYTES + 1)


def bytes_to_write(request: CacheRequest, targets: Targets) -> int:
    """What a run would add to the disk: 0 where the cache is complete and no teacher is needed.

    Raises:
        OutputError, FormatError: see `open_or_build`.
    """
    plan = _planned(request, targets)
    if plan is None:
        return request.plan(targets).n_bytes()
    return plan.n_bytes(TeacherCache(request.folder, plan).missing)


def open_or_build(
    request: CacheRequest,
    examples: Examples,
    indices: Int64Array | None,
    *,
    backend: Backend,
    teachers: Callable[[], TeacherSignal],
    reporter: Reporter,
    should_stop: Callable[[], bool] = lambda: False,
) -> CachedTeacher | None:
    """The cached teacher of a data set. What is missing of the cache is built first, and what is there stays.

    Args:
        request: which cache.
        examples: the data set, tokenized as a whole.
        indices: int64, the examples that are used, ascending; None: all.
        backend: the student's.
        teachers: opens the teachers, on the same backend; called only where something is missing.
        reporter: hears of progress, and of shards that are damaged.
        should_stop: asked before each batch.

    Returns:
        None if it was asked to stop; the same call goes on later.

    Raises:
        OutputError: the folder has a cache of something else, or other files, or another process builds it; it cannot
            be written; the disk is too full, before or while it is written.
        FormatError: the manifest is damaged.
        ModelError: the teachers compute numbers that are not finite, or float16 cannot hold them.
    """
    targets = Targets.of(examples, indices)
    plan = _planned(request, targets)
    cache = None if plan is None else TeacherCache(request.folder, plan)
    if cache is None or cache.missing:
        _check_room(request.folder, request.plan(targets).n_bytes() if cache is None else _bytes_missing(cache))
        _make(request.folder)
        with folder_lock(request.folder):
            cache = _begin(request, targets, reporter)
            if cache.missing and not build_cache(
                cache, teachers(), examples, targets, backend=backend, reporter=reporter, should_stop=should_stop
            ):
                return None
    return CachedTeacher(cache, targets, backend)


class CachedTeacher:
    """What teachers once said of the targets of a data set; fulfils `TeacherSignal`.

    Args:
        cache: complete.
        targets: those it was made for.
        backend: whose arrays are handed out.
    """

    def __init__(self, cache: TeacherCache, targets: Targets, backend: Backend) -> None:
        self.cache = cache
        self.targets = targets
        self.backend = backend

    def rows(self, batch: Batch) -> TeacherRows:
        """One row for each label of the batch, in their order.

        Raises:
            ConfigError: the batch is from data that are streamed, or that the student has written.
            ValueError: a label is no target of the examples that the cache was made for.
        """
        return _CachedRows(self, self.targets.numbers_of(batch))

    def kept_mass(self) -> float:
        """The mean over all targets of the probability, at the temperature, of the tokens that are kept. (It has no
        meaning where logits are kept.)"""
        return 1 - self.cache.tail_mass() / len(self.targets)


@dataclass(frozen=True)
class _CachedRows:
    """The targets of one batch; fulfils `TeacherRows`."""

    owner: CachedTeacher
    numbers: Int64Array

    def chunk(self, part: slice) -> DenseChunk | TopKChunk:
        """Read from the disk now. Where every token was kept, ids in their order are no news."""
        layout, backend = self.owner.cache.plan.layout, self.owner.backend
        taken = self.owner.cache.take(self.numbers[part])
        values = backend.asarray(taken.values)
        weights = None if taken.weights is None else backend.asarray(taken.weights)
        if layout.top_k == layout.n_tokens:
            return DenseChunk(values, weights)
        ids = backend.asarray(taken.ids)
        return TopKChunk(ids, values, backend.asarray(taken.log_tail), layout.n_tokens, weights)


@dataclass(frozen=True)
class UniformTeacher:
    """Says that all tokens are equally likely, in the form in which a cached teacher speaks; fulfils `TeacherSignal`.

    With it a step can be measured before there is a cache.
    """

    layout: TeacherLayout
    backend: Backend

    def rows(self, batch: Batch) -> TeacherRows:
        """One row for each label of the batch."""
        return _UniformRows(self, int((batch.labels >= 0).sum()))


@dataclass(frozen=True)
class _UniformRows:
    owner: UniformTeacher
    count: int

    def chunk(self, part: slice) -> DenseChunk | TopKChunk:
        layout, backend = self.owner.layout, self.owner.backend
        top_k, n_tokens = layout.top_k, layout.n_tokens
        shape = (len(range(self.count)[part]), top_k)
        values = backend.asarray(np.full(shape, -math.log(n_tokens), np.float32))
        weights = backend.asarray(np.ones(len(values), np.float32)) if layout.weighted else None
        if top_k == n_tokens:
            return DenseChunk(values, weights)
        ids = backend.asarray(np.tile(np.arange(top_k, dtype=np.int32), (len(values), 1)))
        log_tail = backend.asarray(np.full(len(values), math.log1p(-top_k / n_tokens), np.float32))
        return TopKChunk(ids, values, log_tail, n_tokens, weights)


def _planned(request: CacheRequest, targets: Targets) -> CachePlan | None:
    """The plan that the cache was begun with, None if it was not."""
    plan = planned_before(request.folder, request.plan(targets))
    if plan is not None and not np.isin(plan.borders, targets.borders).all():
        raise FormatError(
            "the manifest of a teacher's cache is damaged: a shard of it ends inside an example",
            where=str(request.folder),
            hint="remove the folder, and the cache is made again",
        )
    return plan


def _begin(request: CacheRequest, targets: Targets, reporter: Reporter) -> TeacherCache:
    """The cache as it is now that nobody else writes to it."""
    before = _planned(request, targets)
    plan = request.plan(targets) if before is None else before
    clean_up(request.folder, plan)
    if before is None:
        begin_cache(request.folder, plan)
    cache = TeacherCache(request.folder, plan)
    for message in cache.damaged:
        reporter.emit(Notice("warning", f"{message}; it is made again"))
    return cache


def _bytes_missing(cache: TeacherCache) -> int:
    return cache.plan.n_bytes(cache.missing)


def _check_room(folder: Path, needed: int) -> None:
    free = free_disk_bytes(folder)
    if free is not None and free < needed:
        raise OutputError(
            f"the teacher's cache needs {_mebibytes(needed)} on disk, and {_mebibytes(free)} are free",
            where=str(folder),
            hint="set distill.cache.path to another disk, or keep less: distill.cache.top_k, dtype: float16",
        )


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder of the teacher's cache cannot be made: {error.strerror}",
            where=str(folder),
            hint="set distill.cache.path to a folder that you may write to",
        ) from error
