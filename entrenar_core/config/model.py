"""The `model` section: which model is trained, or the shape of a new one that starts from random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from entrenar_core.config.base import AnyCase, Conflict, Names, Section, UserPath, is_count

SMALLEST_BPE_VOCABULARY = 257
"""Byte-level BPE needs its 256 bytes and one end-of-text token."""


class Architecture(Section):
    """The shape of a model that starts from random weights."""

    type: Annotated[Literal["llama", "qwen2", "qwen3"], AnyCase] = Field(description="the family of the model")
    hidden_size: int = Field(ge=1, description="width of the residual stream")
    num_layers: int = Field(ge=1, description="number of decoder blocks")
    num_heads: int = Field(ge=1, description="number of attention heads")
    num_kv_heads: int = Field(
        default_factory=lambda known: known["num_heads"],
        ge=1,
        description="number of key/value heads (grouped-query attention); default: num_heads",
    )
    head_dim: int = Field(
        default_factory=lambda known: known["hidden_size"] // known["num_heads"],
        ge=2,
        multiple_of=2,
        description="size of one attention head; default: hidden_size / num_heads",
    )
    intermediate_size: int = Field(ge=1, description="width of the feed-forward layer")
    vocab_size: int = Field(
        ge=1, description="number of tokens; a tokenizer trained on the data gets at most this many"
    )
    context_length: int = Field(default=2048, ge=1, description="longest sequence the model is made for, in tokens")
    rope_theta: float = Field(default=10000.0, gt=0, description="base of the rotary position frequencies")
    norm_eps: float = Field(default=1e-5, gt=0, description="epsilon of the RMS norms")
    tie_embeddings: bool = Field(default=False, description="use the token embedding as the output layer too")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        hidden, heads, kv_heads = (given.get(key) for key in ("hidden_size", "num_heads", "num_kv_heads"))
        if not is_count(heads):
            return
        if is_count(kv_heads) and heads % kv_heads:
            yield Conflict("num_kv_heads", f"{heads} heads cannot share {kv_heads} key/value heads evenly")
        if "head_dim" in given or not is_count(hidden):
            return
        if hidden % heads:
            yield Conflict("num_heads", f"hidden_size {hidden} is not a multiple of {heads}", "or set head_dim")
        elif (hidden // heads) % 2:
            yield Conflict("num_heads", f"gives heads of {hidden // heads}; rotary positions need an even size")


class Model(Section):
    """The model that is trained."""

    path: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="a GGUF file (any shard of a split one), relative to the current folder"
    )
    architecture: Architecture | None = Field(default=None, description="start from random weights of this shape")
    tokenizer: Annotated[str | None, UserPath] = Field(
        default=None,
        min_length=1,
        description="with architecture: a GGUF file to take the tokenizer from; default: train one on the data",
    )
    layers: Names | None = Field(default=None, description="modules that get a LoRA adapter by default")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if "path" in given and "architecture" in given:
            yield Conflict("architecture", "cannot go together with model.path", "keep one of them")
        if "path" in given and "tokenizer" in given:
            yield Conflict("tokenizer", "cannot go together with model.path, which has its own tokenizer", "remove it")
        yield from cls._vocabulary_conflicts(given)

    @staticmethod
    def _vocabulary_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
        shape = given.get("architecture")
        vocab_size = shape.get("vocab_size") if isinstance(shape, Mapping) else getattr(shape, "vocab_size", None)
        if "tokenizer" not in given and is_count(vocab_size) and vocab_size < SMALLEST_BPE_VOCABULARY:
            yield Conflict(
                "architecture.vocab_size",
                f"value {vocab_size}; a tokenizer trained on the data needs at least {SMALLEST_BPE_VOCABULARY} tokens",
            )
