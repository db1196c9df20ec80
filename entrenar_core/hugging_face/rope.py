"""How RoPE is scaled: what config.json says in words, GGUF says in keys or as a factor for each frequency.

Llama 3.1 leaves short waves as they are, divides the frequency of long ones by a factor, and goes from one to the other
in between. GGUF holds the divisors, float32 [E/2], as the tensor ``rope_freqs.weight``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import ModelError
from entrenar_core.hugging_face.json_object import JsonObject

Floats = npt.NDArray[np.float32]

DEFAULT_THETA = 10000.0
_USUAL_HIGH, _USUAL_CONTEXT = 4.0, 8192
_SAME = 1e-5
KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rope:
    """theta: base of the frequencies. linear_factor: positions are divided by it. factors: see above, or None."""

    theta: float
    linear_factor: float = 1.0
    factors: Floats | None = None


def read_rope(config: JsonObject, head_dim: int) -> Rope:
    """What a config.json says, in the form of transformers 5 (`rope_parameters`) or of older ones (`rope_scaling`).

    Raises:
        ModelError: a kind of scaling that is not supported.
        FormatError: a value is missing or wrong.
    """
    scaling = config.object("rope_parameters") or config.object("rope_scaling")
    theta = scaling.number("rope_theta", config.number("rope_theta", DEFAULT_THETA))
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind not in KINDS:
        raise ModelError(
            f"rope scaling {kind!r} is not supported", where=scaling.where, hint=f"known: {', '.join(KINDS)}"
        )
    for holder in (config, scaling):
        if holder.number("partial_rotary_factor", 1.0) != 1.0:
            raise ModelError("rotating a part of each head is not supported", where=holder.where)
    if kind == "linear":
        return Rope(theta, linear_factor=scaling.number("factor"))
    return Rope(theta, factors=_llama3_factors(scaling, theta, head_dim) if kind == "llama3" else None)


def llama3_factors(
    theta: float, head_dim: int, *, factor: float, low: float, high: float, original_context: int
) -> Floats:
    """The divisor of each frequency θ^(-2i/E), float32 [E/2].

    Args:
        theta: θ.
        head_dim: E.
        factor: of long waves.
        low: waves longer than original_context / low are long.
        high: waves shorter than original_context / high are short.
        original_context: that the model was first trained with.
    """
    factors = []
    for index in range(0, head_dim, 2):
        turns = original_context / (2 * math.pi * theta ** (index / head_dim))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _llama3_factors(scaling: JsonObject, theta: float, head_dim: int) -> Floats:
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if low >= high:
        raise scaling.error("low_freq_factor", f"{low} must be below high_freq_factor, which is {high}")
    return llama3_factors(
        theta,
        head_dim,
        factor=scaling.number("factor"),
        low=low,
        high=high,
        original_context=scaling.integer("original_max_position_embeddings"),
    )


def llama3_settings(factors: Floats, theta: float, head_dim: int) -> dict[str, Any] | None:
    """What config.json calls the scaling that has these divisors, or None if that has none: see `llama3_factors`.

    Only the ratio of low, high and the original context can be seen in them, so low is 1, as in all published models.
    """
    if not (factors > 0).all():
        return None
    for factor, high, original_context in _candidates(factors, theta, head_dim):
        made = llama3_factors(theta, head_dim, factor=factor, low=1.0, high=high, original_context=original_context)
        if np.allclose(made, factors, rtol=_SAME, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": original_context,
            }
    return None


def _candidates(factors: Floats, theta: float, head_dim: int) -> Iterator[tuple[float, float, int]]:
    """factor, high and original context: of the published models, then as the divisors in between say."""
    factor = float(factors.max())
    yield factor, _USUAL_HIGH, _USUAL_CONTEXT
    between = (factors > 1) & (factors < factor)
    # 1/f = (1 - s)/factor + s, and s = (context / wavelength - 1) / (high - 1), linear in 1 / wavelength
    smooth = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    frequencies = theta ** (-np.arange(0, head_dim, 2)[between] / head_dim) / (2 * np.pi)
    if len(smooth) == 1:  # it gives one of the two
        yield factor, _USUAL_HIGH, round(float((1 + smooth[0] * (_USUAL_HIGH - 1)) / frequencies[0]))
    if len(smooth) > 1:
        slope, intercept = np.polyfit(frequencies, smooth, 1)
        if intercept < 0 < slope:
            yield factor, round(1 - 1 / intercept, 3), round(-slope / intercept)
