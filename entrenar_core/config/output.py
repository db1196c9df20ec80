"""The `output` section: which files a finished run leaves, and in which number types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from entrenar_core.config.base import AnyCase, Section


class Output(Section):
    """The files of a finished run."""

    gguf: bool = Field(default=True, description="write the trained model as a GGUF file")
    adapter: Annotated[Literal["gguf", "none"], AnyCase] = Field(
        default="none", description="format of the LoRA adapter file; default: gguf with a lora section"
    )
    merge_adapter: bool = Field(
        default=True, description="with lora: fold the adapter into the GGUF model; false: no model is written"
    )
    type: Annotated[Literal["auto", "f32", "f16", "bf16"], AnyCase] = Field(
        default="auto",
        description="number type of the written weights; auto: the type each tensor has in the base model",
    )
