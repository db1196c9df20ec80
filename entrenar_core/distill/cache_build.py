"""Builds a cache of the teacher's predictions, shard by shard.

A shard covers whole examples. They are sorted by length before the teacher reads them, so little of its work is
padding, and a shard depends on nothing but its own examples: made again, it has the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from entrenar_core.autograd.ops.distillation import DenseChunk, TeacherRows
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.pack import batch_widths, fill, one_per_row
from entrenar_core.data.teacher_cache import TeacherCache
from entrenar_core.data.teacher_shard import TeacherLayout, TopTokens
from entrenar_core.distill.targets import Int64Array, Targets
from entrenar_core.distill.teachers import TeacherSignal
from entrenar_core.distill.top_k import keep_top_k
from entrenar_core.errors import ModelError
from entrenar_core.events import Progress, Reporter
from entrenar_core.threads import Threads

TASK = "teacher cache"
"""What the progress of a build is called; it counts targets."""

BATCH_TOKENS = 2048
"""Positions, padding included, that the teacher reads at once, unless one example is longer."""

CHUNK_BYTES = 16 << 20
"""Aim for the log-probabilities of all tokens that are in memory at once."""


def build_cache(
    cache: TeacherCache,
    signal: TeacherSignal,
    examples: Examples,
    targets: Targets,
    *,
    backend: Backend,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> bool:
    """Ask the teachers for the shards that are missing, one after another. The caller holds the lock of the folder.

    Returns:
        False if it was asked to stop before the last was complete.
    """
    missing = cache.missing
    done = cache.plan.n_targets - sum(cache.plan.shard_rows(shard) for shard in missing)
    reporter.emit(Progress(TASK, done, cache.plan.n_targets))
    threads = Threads(backend.n_threads)
    try:
        for shard in missing:
            part = cache.plan.rows(shard)
            rows = TopTokens.empty(cache.plan.layout, part.stop - part.start)
            for batch in _batches(examples, targets.examples_of(part)):
                if should_stop():
                    return False
                asked = targets.numbers_of(batch) - part.start
                for at, chunk in _chunks(signal.rows(batch), asked, cache.plan.layout):
                    _put(rows, at, chunk, cache.plan.layout, backend, threads)
                done += len(asked)
                reporter.emit(Progress(TASK, done, cache.plan.n_targets))
            cache.write(shard, rows)
    finally:
        threads.close()
    return True


def _batches(examples: Examples, used: Int64Array) -> Iterator[Batch]:
    """The examples `used`, the longest first, in batches of about `BATCH_TOKENS` positions."""
    lengths = examples.lengths[used]
    order = used[np.argsort(-lengths, kind="stable")]
    start = 0
    while start < len(order):
        width = int(batch_widths(examples.lengths[order[start]], np.iinfo(np.int32).max))
        rows = max(1, BATCH_TOKENS // width)
        yield fill(examples, one_per_row(order[start : start + rows]), seq_len=width, pad_id=0)
        start += rows


def _chunks(rows: TeacherRows, asked: Int64Array, layout: TeacherLayout) -> Iterator[tuple[Int64Array, DenseChunk]]:
    """Where rows belong in a shard, and what the teachers say of them, some rows at a time."""
    step = max(1, CHUNK_BYTES // (4 * layout.n_tokens))
    for start in range(0, len(asked), step):
        at = asked[start : start + step]
        chunk = rows.chunk(slice(start, start + len(at)))
        if not isinstance(chunk, DenseChunk) or chunk.values.shape != (len(at), layout.n_tokens):
            raise ValueError(f"a teacher that runs speaks of all {layout.n_tokens} tokens")
        if chunk.weights is not None and not layout.weighted:
            raise ValueError("the teacher gives weights, and the cache was not asked to keep them")
        yield at, chunk


def _put(
    rows: TopTokens, at: Int64Array, chunk: DenseChunk, layout: TeacherLayout, backend: Backend, threads: Threads
) -> None:
    """Write what is kept of a chunk into the targets `at` of a shard."""
    values = np.ascontiguousarray(backend.to_host(chunk.values), dtype=np.float32)
    kept = keep_top_k(values, layout.top_k, threads)
    if not (np.isfinite(kept.values).all() and (kept.log_tail < np.inf).all()):
        raise ModelError("the teacher computes numbers that are not finite", hint="the weights of its file are damaged")
    with np.errstate(over="ignore"):
        rows.values[at] = kept.values
    if not np.isfinite(rows.values[at]).all():
        raise ModelError(
            f"{layout.dtype} cannot hold what the teacher says, up to {np.abs(kept.values).max():g} in size",
            hint="set distill.cache.dtype: float32",
        )
    rows.ids[at], rows.log_tail[at] = kept.ids, kept.log_tail
    if rows.weights is not None:
        rows.weights[at] = 1.0 if chunk.weights is None else backend.to_host(chunk.weights)
