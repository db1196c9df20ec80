"""The architectures that this engine computes, by their GGUF name."""

from __future__ import annotations

from collections.abc import Mapping

from entrenar_core.errors import ModelError
from entrenar_core.model import llama, qwen2, qwen3
from entrenar_core.model.spec import Traits

ARCHITECTURES: Mapping[str, Traits] = {module.TRAITS.architecture: module.TRAITS for module in (llama, qwen2, qwen3)}


def traits_of(architecture: object, source: str) -> Traits:
    """What an architecture's name implies.

    Raises:
        ModelError: the name is unknown; the message lists the known ones.
    """
    if isinstance(architecture, str) and architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    raise ModelError(
        f"architecture {architecture!r} is not supported",
        where=source,
        hint=f"supported architectures: {', '.join(ARCHITECTURES)}",
    )
