"""The weights that a run rounds while it trains: how each is encoded, and what memory they take."""

from __future__ import annotations

import math
from collections.abc import Mapping

from entrenar_core.codecs.base import Floats
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.gguf.names import OUTPUT
from entrenar_core.model.heads import HeadSpec
from entrenar_core.quant.encoding import Encoding
from entrenar_core.stages.base_model import BaseModel
from entrenar_core.stages.encodings import encodings_of
from entrenar_core.stages.output_plan import changed_tensors, output_plan, sources_of, trained_shapes
from entrenar_core.stages.qat import qat_section, rounded_names


def rounded_encodings(
    config: Config, base: BaseModel, head: HeadSpec | None, importance: Mapping[str, Floats] | None = None
) -> dict[str, Encoding]:
    """How each weight that is rounded while training is encoded, which is how it is written; empty without QAT.

    `importance`: of the columns of each weight, measured on the model that training starts from.

    Raises:
        ConfigError: nothing would be rounded.
    """
    if qat_section(config) is None:
        return {}
    changed = changed_tensors(base, trained_shapes(config, base, head))
    plan = output_plan(config, base, changed)
    encodings = encodings_of(plan, config, base, changed, importance or {})
    names = rounded_names(plan, sources_of(base), changed, config)
    if not names:
        raise ConfigError("no matrix of the model would be quantized", where="quantize", hint="remove the section")
    return {name: encodings[name] for name in names}


def rounded_bytes(config: Config, base: BaseModel, head: HeadSpec | None) -> int:
    """Memory of the rounded weights: a float32 copy of each, a flag for each value where gradients are clipped, and
    with adapters one matrix W + s·B·A at a time."""
    section, sources = qat_section(config), sources_of(base)
    if section is None:
        return 0
    names = rounded_encodings(config, base, head)
    used = [math.prod(sources[name][0]) for name in names if head is None or name != OUTPUT]
    bytes_per_value = 5 if section.gradient == "clipped" else 4
    return bytes_per_value * sum(used) + (4 * max(used) if config.lora is not None else 0)
