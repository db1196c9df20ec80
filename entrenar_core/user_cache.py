"""Where the user keeps what can be made again: compiled kernels and tokenized data."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """``~/.cache/entrenar``, or below XDG_CACHE_HOME.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entrenar"
