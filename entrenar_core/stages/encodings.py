"""How each tensor of the written model is encoded: beside its type, what shares a scale and what errors count."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from entrenar_core.codecs.base import Floats
from entrenar_core.config.root import Config
from entrenar_core.quant.encoding import Encoding
from entrenar_core.quant.granularity import SHARED_TYPES
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.output_plan import sources_of
from entrenar_core.stages.output_types import OutputTypes


def encodings_of(
    plan: OutputTypes, config: Config, base: BaseModel, changed: Collection[str], importance: Mapping[str, Floats]
) -> dict[str, Encoding]:
    """How each tensor is encoded: its type, what shares a scale, and what the errors of its columns count.

    Scales are shared where the type's blocks can; what is copied stays as it is. `importance` is that of the columns,
    by name; empty without calibration.
    """
    section, present = config.quantize, sources_of(base)
    shared = "block" if section is None or section.stage == "base" else section.scale_group
    percentile = None if section is None else section.range_percentile
    found = {}
    for name, type_name in plan.types.items():
        is_encoded = name in changed or present[name][1] != type_name
        granularity = shared if is_encoded and type_name in SHARED_TYPES else "block"
        found[name] = Encoding(type_name, importance.get(name), granularity, percentile)
    return found
