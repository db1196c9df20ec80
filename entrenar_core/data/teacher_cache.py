"""What a teacher says of each target of a data set, once and for all, on disk.

A cache is a folder: `manifest.json` says what it was made from (its key) and which targets lie in which file, and each
file is a shard (see `teacher_shard`) that is complete when it has its name. A build that was killed goes on at the
first shard that is missing; a shard that is damaged is one that is missing. Targets are numbered in the order of the
data set, and read in any order from files that are mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.data.folder_lock import LOCK
from entrenar_core.data.teacher_shard import SHARD_OVERHEAD, TeacherLayout, TopTokens, map_shard, write_shard
from entrenar_core.errors import FormatError, OutputError
from entrenar_core.gguf.atomic import atomic_file, remove_partial_files

Int64Array = npt.NDArray[np.int64]

FORMAT = 1
"""Raised when the meaning of the files changes."""

MANIFEST = "manifest.json"

_LARGEST_MANIFEST = 64 << 20
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class CachePlan:
    """What a cache is to hold.

    Attributes:
        key: what the values depend on, JSON values by name; a cache with another key is another cache.
        layout: of each target.
        borders: the first target of each shard, and after them the number of targets.
    """

    key: Mapping[str, Any]
    layout: TeacherLayout
    borders: tuple[int, ...]

    @property
    def n_targets(self) -> int:
        return self.borders[-1]

    @property
    def n_shards(self) -> int:
        return len(self.borders) - 1

    def rows(self, shard: int) -> slice:
        """The targets of a shard."""
        return slice(self.borders[shard], self.borders[shard + 1])

    def shard_rows(self, shard: int) -> int:
        return self.borders[shard + 1] - self.borders[shard]

    def stamp(self, shard: int) -> str:
        """What is written into a shard, so that it is not taken for one of another cache."""
        return f"{self._digest}-{shard}"

    @cached_property
    def _digest(self) -> str:
        content = json.dumps([FORMAT, self.key, self.borders], sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def n_bytes(self, shards: Sequence[int] | None = None) -> int:
        """The most that some shards take on disk, by default all of them."""
        chosen = range(self.n_shards) if shards is None else shards
        return sum(self.shard_rows(one) * self.layout.row_bytes + SHARD_OVERHEAD for one in chosen)


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.arrow"


def begin_cache(folder: Path, plan: CachePlan) -> None:
    """Make the folder of a new cache, and its manifest.

    Raises:
        OutputError: it cannot be written.
    """
    document = {"format": FORMAT, "key": plan.key, "borders": plan.borders}
    with atomic_file(folder / MANIFEST) as file:
        file.write(json.dumps(document, indent=1, sort_keys=True).encode())


def planned_before(folder: Path, plan: CachePlan) -> CachePlan | None:
    """The plan that a cache was begun with; None for a folder that is not there or is empty.

    Raises:
        OutputError: the folder has a cache with another key (the message says what differs), or other files.
        FormatError: its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise FormatError("this is too large to be the manifest of a teacher's cache", where=str(path))
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        _check_free(folder)
        return None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path)) from error
    found = _Manifest.read(content, path)
    _check_key(found.key, _plain(plan.key), folder)
    if found.borders[-1] != plan.n_targets:
        raise _damaged(path, f"it plans {found.borders[-1]} targets, and the data have {plan.n_targets}")
    return CachePlan(plan.key, plan.layout, found.borders)


def clean_up(folder: Path, plan: CachePlan) -> None:
    """Remove what builds that were killed have left. The caller holds the lock of the folder.

    Raises:
        OutputError: the system refuses.
    """
    try:
        remove_partial_files(folder, {MANIFEST, *(shard_path(folder, shard).name for shard in range(plan.n_shards))})
    except OSError as error:
        raise OutputError(
            f"what an earlier build has left cannot be removed: {error.strerror}",
            where=str(folder),
            hint="set distill.cache.path to a folder that you may write to",
        ) from error


class TeacherCache:
    """The shards of a cache that are there, mapped into memory.

    Args:
        folder: of the cache.
        plan: as its manifest has it.

    Attributes:
        missing: the numbers of the shards that are not there, or not whole.
        damaged: what is wrong with those that are there and not whole.
    """

    def __init__(self, folder: Path, plan: CachePlan) -> None:
        self.folder = folder
        self.plan = plan
        self.damaged: list[str] = []
        self._shards = [self._map(shard) for shard in range(plan.n_shards)]
        self._borders = np.array(plan.borders, dtype=np.int64)

    @property
    def missing(self) -> list[int]:
        return [shard for shard, rows in enumerate(self._shards) if rows is None]

    def write(self, shard: int, rows: TopTokens) -> None:
        """Complete a shard that was missing. The caller holds the lock of the folder.

        Raises:
            OutputError: it cannot be written, or the disk is full.
        """
        write_shard(shard_path(self.folder, shard), rows, self.plan.stamp(shard))
        self._shards[shard] = self._open(shard)

    def take(self, rows: Int64Array) -> TopTokens:
        """The targets numbered `rows` (int64 [m], in any order): ids int32, values float32.

        Raises:
            FormatError: the file of one of them holds what no build has written there.
            IndexError: there is no such target, or its shard is missing.
        """
        if rows.size and (rows.min() < 0 or rows.max() >= self.plan.n_targets):
            raise IndexError(f"targets {rows.min()} to {rows.max()} of {self.plan.n_targets}")
        layout = self.plan.layout
        shape = (len(rows), layout.top_k)
        weights = np.empty(len(rows), np.float32) if layout.weighted else None
        taken = TopTokens(
            np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(len(rows), np.float32), weights
        )
        for shard, at, inside in self._places(rows):
            stored = self._shards[shard]
            if stored is None:
                raise IndexError(f"shard {shard} is missing")
            for (_, into), (_, source) in zip(taken.arrays(), stored.arrays(), strict=True):
                into[at] = source[inside]
        self._check(taken, rows)
        return taken

    def tail_mass(self) -> float:
        """Σ exp(log_tail) over all targets that are there."""
        return sum(float(np.exp(rows.log_tail, dtype=np.float64).sum()) for rows in self._shards if rows is not None)

    def _open(self, shard: int) -> TopTokens:
        path, plan = shard_path(self.folder, shard), self.plan
        return map_shard(path, plan.layout, plan.shard_rows(shard), plan.stamp(shard))

    def _map(self, shard: int) -> TopTokens | None:
        try:
            return self._open(shard)
        except FileNotFoundError:
            return None
        except FormatError as error:
            self.damaged.append(str(error))
            return None

    def _places(self, rows: Int64Array) -> Iterator[tuple[int, Any, Int64Array]]:
        """For each shard: its number, where its targets are in `rows`, and where in the shard."""
        shards = np.searchsorted(self._borders, rows, side="right") - 1
        order = np.argsort(shards, kind="stable")
        bounds = [*np.flatnonzero(np.diff(shards[order], prepend=-1)).tolist(), len(rows)]
        for first, last in pairwise(bounds):
            at = order[first:last]
            shard = int(shards[at[0]])
            yield shard, at, rows[at] - self._borders[shard]

    def _check(self, taken: TopTokens, rows: Int64Array) -> None:
        wrong = ~_is_sound(taken, self.plan.layout.n_tokens)
        if wrong.any():
            row = int(rows[np.argmax(wrong)])
            shard = int(np.searchsorted(self._borders, row, side="right") - 1)
            raise FormatError(
                f"target {row - self.plan.borders[shard]} has token ids or values that no teacher gives",
                where=str(shard_path(self.folder, shard)),
                hint="the file is damaged: remove it, and it is made again",
            )


def _is_sound(rows: TopTokens, n_tokens: int) -> npt.NDArray[np.bool_]:
    """bool [m]: ids ascend and are below `n_tokens`, values are finite, no tail is NaN or +inf, no weight < 0."""
    sound = (rows.ids[:, 1:] > rows.ids[:, :-1]).all(axis=1) & (rows.ids[:, 0] >= 0) & (rows.ids[:, -1] < n_tokens)
    sound &= np.isfinite(rows.values).all(axis=1) & (rows.log_tail < np.inf)
    if rows.weights is not None:
        sound &= (rows.weights >= 0) & (rows.weights < np.inf)
    return np.asarray(sound)


@dataclass(frozen=True)
class _Manifest:
    key: Mapping[str, Any]
    borders: tuple[int, ...]

    @classmethod
    def read(cls, content: bytes, path: Path) -> _Manifest:
        try:
            document = json.loads(content)
            found, key, borders = document["format"], document["key"], document["borders"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, "it is not the JSON of one") from error
        if found != FORMAT:
            raise FormatError(
                f"a teacher's cache of format {found!r}; this version reads format {FORMAT}",
                where=str(path),
                hint="set distill.cache.path to another folder",
            )
        if not isinstance(key, dict) or not _ascends_from_zero(borders):
            raise _damaged(path, "its key is no mapping, or its borders do not ascend from 0")
        return cls(key, tuple(borders))


def _ascends_from_zero(borders: Any) -> bool:
    if not isinstance(borders, list) or len(borders) < 2 or not all(type(one) is int for one in borders):
        return False
    return borders[0] == 0 and all(before < after for before, after in pairwise(borders))


def _damaged(path: Path, why: str) -> FormatError:
    return FormatError(
        f"the manifest of a teacher's cache is damaged: {why}",
        where=str(path),
        hint="remove the folder, and the cache is made again",
    )


def _check_free(folder: Path) -> None:
    """See that a new cache can have this folder."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"this is no folder for a teacher's cache: {error.strerror}",
            where=str(folder),
            hint="set distill.cache.path to another folder",
        ) from error
    foreign = [name for name in names if name != LOCK and not name.startswith(f".{MANIFEST}.")]
    if foreign:
        raise OutputError(
            f"the folder holds {foreign[0]} and no {MANIFEST}, so it is no teacher's cache",
            where=str(folder),
            hint="set distill.cache.path to a folder that is empty or does not exist",
        )


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A key as it comes back from the manifest."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _check_key(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    differing = list(_differences(found, wanted))
    if differing:
        raise OutputError(
            f"the teacher's cache was made from something else: {'; '.join(differing)}",
            where=str(folder),
            hint="set distill.cache.path to another folder, or remove this one",
        )


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """One line for each value of two JSON documents that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, f"{name}[{index}]")
    elif found != wanted:
        yield f"{name} is {_shown(found)} there and {_shown(wanted)} here"


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
