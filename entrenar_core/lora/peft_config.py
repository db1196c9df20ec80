"""adapter_config.json of PEFT: the scale of each module, and what cannot be put on a model exactly, refused by name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from entrenar_core.errors import FormatError
from entrenar_core.hugging_face.json_object import JsonObject

PEFT_CONFIG = "adapter_config.json"

_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to start that take a part out of the base weights; unless converted, the adapter fits only what is left."""

_REFUSED: tuple[tuple[str, str], ...] = (
    ("use_dora", "DoRA adapters are not supported"),
    ("lora_bias", "adapters with a bias in B are not supported"),
    ("use_qalora", "QA-LoRA adapters are not supported"),
    ("fan_in_fan_out", "adapters of transposed weights are not supported"),
    ("modules_to_save", "the adapter replaces whole modules (modules_to_save), which is not supported"),
    ("layer_replication", "adapters that repeat layers are not supported"),
    ("target_parameters", "adapters of bare parameters are not supported"),
    ("trainable_token_indices", "adapters that train some tokens are not supported"),
    ("megatron_config", "adapters for Megatron are not supported"),
)
_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class PeftConfig:
    """rank and alpha of modules, those in the patterns having their own; rslora: the scale is alpha/√R, not alpha/R."""

    where: str
    rank: int
    alpha: float
    rslora: bool
    ranks: dict[str, int]
    alphas: dict[str, float]

    def rank_of(self, module: str) -> int:
        """R of a module, ``model.layers.0.self_attn.q_proj``."""
        return next((rank for pattern, rank in self.ranks.items() if _matches(pattern, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor on B·A."""
        alpha = next((alpha for pattern, alpha in self.alphas.items() if _matches(pattern, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_peft_config(config: JsonObject) -> PeftConfig:
    """The settings of a LoRA adapter.

    Raises:
        FormatError: another kind of adapter, or something that is not supported; the key is named.
    """
    kind = config.text("peft_type")
    if kind != "LORA":
        raise config.error("peft_type", f"adapters of type {kind!r} are not supported", hint="known: LORA")
    for key, message in _REFUSED:
        if config.get(key):
            raise config.error(key, message, hint="merge the adapter into its model with PEFT, and give the result")
    if config.text("bias", "none") != "none":
        raise config.error("bias", "adapters that train biases are not supported")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise config.error(
            "init_lora_weights",
            f"the adapter started with {start!r}, which changes the base weights too",
            hint="save it as an ordinary LoRA: path_initial_model_for_weight_conversion in PEFT's save_pretrained",
        )
    ranks, alphas = config.object("rank_pattern"), config.object("alpha_pattern")
    return PeftConfig(
        config.where,
        config.integer("r"),
        config.number("lora_alpha"),
        config.flag("use_rslora", False),
        {_checked(pattern, ranks): ranks.integer(pattern) for pattern in ranks},
        {_checked(pattern, alphas): alphas.number(pattern) for pattern in alphas},
    )


def _checked(pattern: str, patterns: JsonObject) -> str:
    """PEFT takes any expression; one from a stranger could run for ever, and nearly all are plain names."""
    if _PLAIN_PATTERN.fullmatch(pattern) is None:
        raise FormatError(
            f"the pattern {pattern!r} is more than the end of a module's name, which is not supported",
            where=patterns.where,
        )
    return pattern


def _matches(pattern: str, module: str) -> bool:
    """Whether it names the module or the end of its name, from a dot on; a dot stands for itself."""
    if pattern.startswith("^"):
        return module == pattern[1:]
    return module == pattern or module.endswith(f".{pattern}")
