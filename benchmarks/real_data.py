"""Where the real models and data sets lie: outside the repository, so a benchmark may find them absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


def gsm8k_section(data: Path) -> dict[str, Any]:
    """The `data` section for gsm8k below a folder of shared data: packed rows, B2 T512."""
    return {
        "train": str(data / "gsm8k" / "train.parquet"),
        "prompt": "question",
        "completion": "answer",
        "seq_len": 512,
        "batch_size": 2,
        "packing": True,
    }
