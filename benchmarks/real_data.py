"""Where the real models and data sets lie: outside the repository, so a benchmark may find them absent."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PLACES = (_ROOT / "shared" / "data", _ROOT.parent / "shared" / "data")
ABSENT = "skipped: the shared data are absent (set ENTRENAR_SHARED_DATA to their folder)"


def shared_data() -> Path | None:
    """The folder with `models/`, `gsm8k/` and `tinyshakespeare.txt`, or None."""
    stated = os.environ.get("ENTRENAR_SHARED_DATA")
    for place in (Path(stated),) if stated else _PLACES:
        if place.is_dir():
            return place.resolve()
    return None
