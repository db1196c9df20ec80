"""The `output` section: which files a finished run leaves, and in which number types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Section
from entrenar_core.config.quantize import MixName, named_mix

OutputType = Literal["auto", MixName]


class Output(Section):
    """The files of a finished run."""

    gguf: bool = Field(default=True, description="write the trained model as a GGUF file")
    adapter: Annotated[Literal["gguf", "none"], AnyCase] = Field(
        default="none", description="format of the LoRA adapter file; default: gguf with a lora section"
    )
    merge_adapter: bool = Field(
        default=True, description="with lora: fold the adapter into the GGUF model; false: no model is written"
    )
    adapter_type: Annotated[Literal["f32", "f16"], AnyCase] = Field(
        default="f32", description="number type of the written adapter, which is trained in f32"
    )
    type: Annotated[OutputType, BeforeValidator(named_mix)] = Field(
        default="auto",
        description="type, or mix of types, of the written weights; auto: the type each tensor has in the base model",
    )
