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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from entrenar_core.data.examples import Examples, ExampleStats, map_examples
from entrenar_core.errors import OutputError

FORMAT = 1
"""Part of every key: raised when the meaning of the arrays or of a setting changes."""

LARGEST_CACHE = 32 << 30
"""Bytes that all entries together may take."""

WORTH_CACHING = 8 << 20
"""Bytes of data files below which tokenizing takes a second or two and leaves nothing on the disk."""

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


def default_cache_folder() -> Path:
    """``~/.cache/entrenar/tokens``, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entrenar" / "tokens"


class TokenCache:
    """A folder of entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
    def new_entry(self, key: str) -> Iterator[Path]:
        """A folder to write the arrays of an entry to. `keep` gives it its name; otherwise it goes at the end.

        Raises:
            OutputError: the cache cannot be written.
        """
        temporary = self.folder / f"{_UNFINISHED}{key}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir(parents=True, mode=0o700)
            yield temporary
        except OSError as error:
            raise OutputError(
                f"the token cache cannot be written: {error.strerror or error}",
                where=str(self.folder),
                hint="free some space, set data.cache_dir to another folder, or data.cache: false",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def keep(self, key: str, temporary: Path, data: CachedData) -> None:
        """Complete the entry that was written to `temporary`, under its name; its mapped arrays stay valid."""
        manifest = {
            "stats": asdict(data.examples.stats),
            "per_source": list(data.per_source),
            "notices": list(data.notices),
            "digest": data.examples.digest(),
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        place = self.folder / key
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
        self._prune(key)

    def _prune(self, newest: str) -> None:
        """Remove the entries that were used longest ago until the rest fits; the newest one stays."""
        entries = sorted(_entries(self.folder), key=lambda entry: entry.used, reverse=True)
        room = LARGEST_CACHE - sum(entry.n_bytes for entry in entries if entry.path.name == newest)
        for entry in entries:
            if entry.path.name == newest:
                continue
            room -= entry.n_bytes
            if room < 0:
                shutil.rmtree(entry.path, ignore_errors=True)


@dataclass(frozen=True)
class _Entry:
    path: Path
    used: float
    n_bytes: int


def _entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        manifest = path / MANIFEST
        if manifest.is_file():
            n_bytes = sum(file.stat().st_size for file in path.iterdir())
            yield _Entry(path, manifest.stat().st_mtime, n_bytes)
