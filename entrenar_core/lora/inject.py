"""Puts adapters into a model: which layers the targets name, the start values of A and B, and the scale.

Targets are module names as people write them (``q_proj``) or as GGUF does (``attn_q``). A target that matches nothing
is an error with the names that would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.errors import ModelError
from entrenar_core.gguf.names import MODULES, module_to_gguf
from entrenar_core.lora.layer import LoRALinear
from entrenar_core.model.layers import Linear
from entrenar_core.model.module import Module


@dataclass(frozen=True)
class LoRASettings:
    """rank R, alpha, dropout, targets ("all" or names), rsLoRA: scale alpha/√R instead of alpha/R."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: Sequence[str] | str = "all"
    rslora: bool = False

    @property
    def scale(self) -> float:
        """The factor on B·A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def adaptable_layers(model: Module) -> Iterator[tuple[Module, str, Linear]]:
    """Every linear layer inside a block, with the module and attribute that hold it; the output matrix is not one."""
    for child in model.children():
        yield from adaptable_layers(child)
    for attribute, value in list(vars(model).items()):
        if isinstance(value, Linear) and value.name.startswith("blk."):
            yield model, attribute, value


def target_modules(targets: Sequence[str] | str, available: set[str]) -> set[str]:
    """GGUF module names (``attn_q``) for what a person asked for.

    Raises:
        ConfigError: a target is no module name at all.
        ModelError: no target, or one that matches no layer of this model.
    """
    if isinstance(targets, str):
        return available if targets == "all" else target_modules([targets], available)
    chosen = {module_to_gguf(target) for target in targets}
    if not chosen:
        raise ModelError("no LoRA target is named", hint="name modules such as q_proj, or all")
    if missing := chosen - available:
        known = [name for name, gguf in MODULES.items() if gguf in available]
        raise ModelError(
            f"the LoRA target {min(missing)!r} matches no layer of the model", hint=f"its layers: {', '.join(known)}"
        )
    return chosen


def inject_lora(model: Module, settings: LoRASettings, seed: int) -> dict[str, Tensor]:
    """Freeze the model and put an adapter into every target layer.

    A starts Kaiming uniform with a = √5, so uniform in ±1/√in as PEFT does; B starts at zero, so the model's function
    does not change. Draws are keyed by (seed, tensor name).

    Returns:
        The trainable tensors, ``<weight>.lora_a`` and ``<weight>.lora_b``, by name.

    Raises:
        ModelError: a target matches nothing, or a layer has an adapter already; the model is left as it was.
    """
    layers = list(adaptable_layers(model))
    targets = target_modules(settings.targets, {layer.name.split(".")[-1] for _, _, layer in layers})
    refuse_adapted([layer for _, _, layer in layers])
    model.freeze()
    adapters: dict[str, Tensor] = {}
    for holder, attribute, layer in layers:
        if layer.name.split(".")[-1] not in targets:
            continue
        n_out, n_in = layer.weight.shape
        rng = np.random.default_rng([seed, crc32(f"{layer.weight.name}.lora_a".encode())])
        bound = 1.0 / math.sqrt(n_in)
        a = rng.uniform(-bound, bound, (settings.rank, n_in))
        adapted = attach(layer, a, np.zeros((n_out, settings.rank)), settings.scale, settings.dropout)
        setattr(holder, attribute, adapted)
        adapters[adapted.lora_a.name] = adapted.lora_a
        adapters[adapted.lora_b.name] = adapted.lora_b
    return adapters


def refuse_adapted(layers: Sequence[Linear]) -> None:
    """A second adapter would take the place of the first.

    Raises:
        ModelError: a layer has an adapter already.
    """
    for layer in layers:
        if isinstance(layer, LoRALinear):
            raise ModelError(f"{layer.weight.name} has an adapter already", hint="merge it into the model first")


def attach(layer: Linear, a: np.ndarray, b: np.ndarray, scale: float, dropout: float = 0.0) -> LoRALinear:
    """`layer` with the adapter A [R, in], B [out, R] beside it."""
    backend, name = layer.weight.backend, layer.weight.name
    lora_a = Tensor(backend.asarray(a), backend, requires_grad=True, name=f"{name}.lora_a")
    lora_b = Tensor(backend.asarray(b), backend, requires_grad=True, name=f"{name}.lora_b")
    return LoRALinear(layer, lora_a, lora_b, scale, dropout)
