"""How much memory the process has held at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """The largest resident set so far, in bytes (getrusage counts KiB on Linux and bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
