"""How each tensor of the written model is encoded: beside its type, what shares a scale and what errors count."""

from __future__ import annotations

from collections.abc import Collection

from entrenar_core.codecs.base import Floats
from entrenar_core.config.root import Config
from entrenar_core.quant.encoding import Encoding
from entrenar_core.quant.granularity import SHARED_TYPES
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.output_plan import sources_of
from entrenar_core.stages.output_types import OutputTypes


def encodings_of(plan: OutputTypes, config: Config, base: BaseModel, changed: Collection[str]) -> dict[str, Encoding]:
    """How each tensor is encoded: its type, what shares a scale, and what the errors of its columns count.

    Scales are shared where the type's blocks can; what is copied stays as it is.
    """
    section, importance, present = config.quantize, column_importance(config, base), sources_of(base)
    shared = "block" if section is None or section.stage == "base" else section.scale_group
    found = {}
    for name, type_name in plan.types.items():
        is_encoded = name in changed or present[name][1] != type_name
        granularity = shared if is_encoded and type_name in SHARED_TYPES else "block"
        found[name] = Encoding(type_name, importance.get(name), granularity)
    return found


def column_importance(config: Config, base: BaseModel) -> dict[str, Floats]:
    """The importance of each tensor's columns, by name; empty without calibration."""
    del config, base
    return {}
