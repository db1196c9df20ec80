"""The `lora` section: low-rank adapters beside a frozen model. Absent, the whole model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, NamesOrAll, Section, names_or_all

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The targets when neither lora.target_modules nor model.layers names any."""


class Lora(Section):
    """A low-rank adapter (Hu et al. 2021) on chosen linear layers; the model itself is frozen."""

    rank: int = Field(default=16, ge=1, description="size of the bottleneck of the adapter")
    alpha: float = Field(
        default=16.0, gt=0, description="strength of the adapter; the update is scaled by alpha / rank"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the adapter's input that is dropped")
    target_modules: Annotated[
        tuple[str, ...] | Literal["all"], BeforeValidator(names_or_all, json_schema_input_type=NamesOrAll)
    ] = Field(
        default=ATTENTION_MODULES,
        description="modules that get an adapter, or all; default: model.layers, else q_proj, k_proj, v_proj, o_proj",
    )
    rslora: bool = Field(default=False, description="scale by alpha / sqrt(rank) instead of alpha / rank")
    init: Annotated[Literal["kaiming"], AnyCase] = Field(
        default="kaiming", description="start of lora_a: Kaiming uniform; lora_b starts at zero"
    )
