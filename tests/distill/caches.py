"""Small caches for the tests, and who listens while they are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.examples import Examples
from entrenar_core.data.folder_lock import LOCK
from entrenar_core.data.loader import Loader
from entrenar_core.distill.cache import CachedTeacher, CacheRequest, open_or_build
from entrenar_core.distill.cache_build import TASK
from entrenar_core.distill.teachers import TeacherSignal
from entrenar_core.events import Event, Notice, Progress
from tests.distill.fake_teacher import VOCABULARY, FakeTeacher, stories

KEY = {"teachers": [{"sha256": "aa", "share": 1.0}], "temperature": 2.0}
BACKEND = ReferenceBackend(np.float32)
EXAMPLES = stories()
INDICES = np.delete(np.arange(30), [4, 11, 29])


class Heard:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def progress(self) -> list[int]:
        return [event.done for event in self.events if isinstance(event, Progress) and event.task == TASK]

    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


def request_of(folder: Path, **changes: Any) -> CacheRequest:
    """Shards of a few hundred bytes: about fifteen of them."""
    return replace(CacheRequest(folder, KEY, VOCABULARY, 6, shard_bytes=1000), **changes)


def no_teacher() -> TeacherSignal:
    raise AssertionError("no teacher is needed")


def build(
    request: CacheRequest,
    teacher: FakeTeacher | None = None,
    *,
    examples: Examples = EXAMPLES,
    reporter: Heard | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> CachedTeacher | None:
    live = FakeTeacher() if teacher is None else teacher
    return open_or_build(
        request,
        examples,
        INDICES,
        backend=BACKEND,
        teachers=lambda: live,
        reporter=reporter or Heard(),
        should_stop=should_stop,
    )


def built(request: CacheRequest, teacher: FakeTeacher | None = None, **options: Any) -> CachedTeacher:
    cached = build(request, teacher, **options)
    assert cached is not None
    return cached


def loaded(**options: Any) -> Iterator[Any]:
    return Loader(EXAMPLES, batch_size=4, seq_len=32, indices=INDICES, **options).epoch(0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}
