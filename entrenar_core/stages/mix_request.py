"""What the `quantize` section asks of the mixes: for a file, for the result of a training run, for a base in blocks."""

from __future__ import annotations

from entrenar_core.config.quantize import Quantize
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import MixRequest

TARGET_SIZE_MIX = "f16"
"""What a request is made with whose types are chosen by size; it has no rules of its own."""


def mix_request(section: Quantize, facts: ModelFacts) -> MixRequest:
    """The section as the mixes want it; `facts` are those of the model."""
    return MixRequest(
        mix=section.mix or TARGET_SIZE_MIX,
        pure=section.pure,
        output_type=section.output_type,
        embedding_type=section.embedding_type,
        tensor_types=tuple((section.tensor_types or {}).items()),
        has_importance=section.calibration is not None,
        model=facts,
    )
