"""`entrenar quantize` in words: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from entrenar_cli.quantities import duration, exact_count, rate, size
from entrenar_cli.summary import Fact
from entrenar_core.events import Quantized, Quantizing

MEBIBYTE = 1 << 20


def progress_text(event: Quantizing, seconds: float) -> str:
    """Tensors and speed, beside a bar that counts MiB."""
    speed = f"  {size(int(rate(event.done_bytes, seconds)))}/s" if seconds > 0 else ""
    return f"MiB  tensor {exact_count(event.tensors_done + 1)} of {exact_count(event.tensors)}{speed}"


def quantized_facts(event: Quantized) -> list[Fact]:
    """Sizes, types, error and time."""
    share = rate(100 * event.n_bytes, event.source_bytes)
    sizes = f"{size(event.source_bytes)} to {size(event.n_bytes)} ({share:.0f} %)"
    facts = [
        ("size", f"{sizes}, {event.bits_per_weight:.2f} bits a weight"),
        ("types", types_text(event.types)),
    ]
    if event.rmse is not None:
        noise = "" if event.sqnr_db is None else f", {event.sqnr_db:.1f} dB above the noise"
        facts.append(("rounding error", f"RMSE {event.rmse:.3g}{noise}"))
    speed = size(int(rate(event.source_bytes, event.seconds)))
    facts.append(("time", f"{duration(event.seconds)} ({speed}/s), peak memory {size(event.peak_memory_bytes)}"))
    return facts


def types_text(types: Mapping[str, int]) -> str:
    """``Q4_K 130, F32 45``."""
    return ", ".join(f"{name} {exact_count(count)}" for name, count in types.items())
