"""`entrenar merge` in words: how far it is, and what came of it."""

from __future__ import annotations

from entrenar_cli.quantities import duration, exact_count, rate, size
from entrenar_cli.quantize_summary import types_text
from entrenar_cli.summary import Fact
from entrenar_core.events import Merged, Merging


def merging_text(event: Merging) -> str:
    """Tensors, beside a bar that counts pieces."""
    return f"pieces  {exact_count(event.tensors_done)} of {exact_count(event.tensors)} tensors"


def merged_facts(event: Merged) -> list[Fact]:
    """What was merged, sizes, types and time."""
    models = "1 model" if event.models == 1 else f"{exact_count(event.models)} models"
    speed = size(int(rate(event.source_bytes, event.seconds)))
    return [
        ("merge", f"{event.method} of {models}" + (" over a base" if event.over_base else "")),
        ("size", f"{size(event.source_bytes)} to {size(event.n_bytes)}"),
        ("types", types_text(event.types)),
        ("time", f"{duration(event.seconds)} ({speed}/s), peak memory {size(event.peak_memory_bytes)}"),
    ]
