"""How much room the file system has for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_disk_bytes(folder: Path) -> int | None:
    """What the file system of `folder`, which need not exist yet, has left; None where it does not say."""
    existing = folder.absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None
    return usage.free if usage.total else None
