"""Tokenized data on disk, found again by a hash of all that they were made from.

An entry is a folder of flat arrays that are mapped into memory, and a manifest with their sizes and a hash of their
content. It gets its name when it is complete; one that is not what its manifest says is not used. When the folder has
grown beyond `LARGEST_CACHE`, the entries that were used longest ago go.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from entrenar_core.data.examples import Examples, ExampleStats, map_examples
from entrenar_core.data.growing import NO_ROOM
from entrenar_core.errors import OutputError
from entrenar_core.user_cache import user_cache

FORMAT = 2
"""Part of every key: raised when the meaning of the arrays or of a setting changes."""

LARGEST_CACHE = 32 << 30
"""Bytes that all entries together may take."""

WORTH_CACHING = 8 << 20
"""Bytes of data files below which tokenizing takes a second or two and leaves nothing on the disk."""

ABANDONED_SECONDS = 24 * 3600
"""Age at which an unfinished entry is taken for what a killed run has left."""

MANIFEST = "manifest.json"
_UNFINISHED = ".tmp-"


@dataclass(frozen=True)
class CachedData:
    """What an entry holds: the examples, how many each source gave, and what was said while they were made."""

    examples: Examples
    per_source: tuple[int, ...]
    notices: tuple[str, ...]


def cache_key(parts: Mapping[str, Any]) -> str:
    """The name of the entry for data that are made from `parts` (plain JSON values)."""
    content = json.dumps({"format": FORMAT, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(content.encode(), digest_size=20).hexdigest()


def default_cache_folder() -> Path | None:
    """``~/.cache/entrenar/tokens``, or below XDG_CACHE_HOME; None for a user without a home."""
    try:
        return user_cache() / "tokens"
    except RuntimeError:
        return None


class TokenCache:
    """A folder of entries.

    Args:
        folder: made when the first entry is written.
        is_asked_for: the person named the folder, so one that cannot be written is an error; else nothing is cached.
    """

    def __init__(self, folder: Path, *, is_asked_for: bool = True) -> None:
        self.folder = folder
        self.is_asked_for = is_asked_for

    def load(self, key: str) -> CachedData | None:
        """The entry of this key, or None if there is none, or none that is whole."""
        place = self.folder / key
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            examples = map_examples(place, ExampleStats(**manifest["stats"]))
            found = CachedData(examples, tuple(manifest["per_source"]), tuple(manifest["notices"]))
            if examples.digest() != manifest["digest"] or sum(found.per_source) != len(examples):
                return None
            os.utime(place / MANIFEST)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    @contextmanager
    def new_entry(self, key: str) -> Iterator[Path | None]:
        """A folder to write the arrays of an entry to. `keep` gives it its name; otherwise it goes at the end.

        None where the default folder cannot be written.

        Raises:
            OutputError: the folder that was asked for cannot be written.
        """
        temporary = self.folder / f"{_UNFINISHED}{key}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir(parents=True, mode=0o700)
        except OSError as error:
            if self.is_asked_for:
                raise _unwritable(self.folder, error) from error
            yield None
            return
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def keep(self, key: str, temporary: Path, data: CachedData) -> None:
        """Complete the entry that was written to `temporary`, under its name; its mapped arrays stay valid.

        A run beside this one may have made the same entry meanwhile; then that one stays.

        Raises:
            OutputError: the cache cannot be written.
        """
        manifest = {
            "stats": asdict(data.examples.stats),
            "per_source": list(data.per_source),
            "notices": list(data.notices),
            "digest": data.examples.digest(),
        }
        place = self.folder / key
        try:
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            if self.load(key) is None:
                shutil.rmtree(place, ignore_errors=True)
                _rename(temporary, place)
            self._prune(key)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _prune(self, newest: str) -> None:
        """Remove what killed runs have left, and the entries used longest ago until the rest fits."""
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            if _age(path) > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        entries = sorted(_entries(self.folder), key=lambda entry: entry.used, reverse=True)
        room = LARGEST_CACHE - sum(entry.n_bytes for entry in entries if entry.path.name == newest)
        for entry in entries:
            if entry.path.name == newest:
                continue
            room -= entry.n_bytes
            if room < 0:
                shutil.rmtree(entry.path, ignore_errors=True)


def _rename(temporary: Path, place: Path) -> None:
    """Give an entry its name, unless another run was faster."""
    try:
        temporary.rename(place)
    except OSError:
        if not (place / MANIFEST).is_file():
            raise


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"the token cache cannot be written: {error.strerror or error}", where=str(folder), hint=NO_ROOM)


@dataclass(frozen=True)
class _Entry:
    path: Path
    used: float
    n_bytes: int


def _entries(folder: Path) -> Iterator[_Entry]:
    """The complete entries; one that another run removes meanwhile is none."""
    for path in folder.iterdir():
        try:
            used = (path / MANIFEST).stat().st_mtime
            n_bytes = sum(file.stat().st_size for file in path.iterdir())
        except OSError:
            continue
        yield _Entry(path, used, n_bytes)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
