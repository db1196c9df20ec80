"""The facts about a GGUF file that `inspect_gguf` finds. Field names are the keys of ``entrenar inspect --json``.

None stands for what the file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorType:
    """All tensors of one GGML type. `values` counts weights, `n_bytes` what they take in the file."""

    type: str
    tensors: int
    values: int
    n_bytes: int


@dataclass(frozen=True)
class SpecialToken:
    """What a token is for, its id and its text; `text` is None where the id lies outside the vocabulary."""

    use: str
    id: int
    text: str | None


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer; None where the file does not say."""

    model: str | None
    pre: str | None
    vocab_size: int
    special: tuple[SpecialToken, ...]
    add_bos: bool | None
    add_eos: bool | None


@dataclass(frozen=True)
class TemplateFacts:
    """A chat template; the unnamed one is called default."""

    name: str
    first_line: str
    characters: int


@dataclass(frozen=True)
class Sizes:
    """Hyperparameters; None where a key is absent or no single number."""

    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    intermediate_size: int | None
    context_length: int | None


@dataclass(frozen=True)
class ModelFacts:
    """A language model. `obstacle`: why this release cannot train it, or None."""

    kind: str
    path: str
    files: tuple[str, ...]
    n_bytes: int
    version: int
    name: str | None
    architecture: str | None
    parameters: int
    sizes: Sizes
    tied_embeddings: bool
    obstacle: str | None
    tensor_types: tuple[TensorType, ...]
    tokenizer: TokenizerFacts | None
    chat_templates: tuple[TemplateFacts, ...]
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class AdapterFacts:
    """A LoRA adapter. `ranks` are those that occur; `targets` says for each module how many layers have it."""

    kind: str
    path: str
    n_bytes: int
    name: str | None
    architecture: str | None
    ranks: tuple[int, ...]
    alpha: float | None
    targets: Mapping[str, int]
    parameters: int
    tensor_types: tuple[TensorType, ...]
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class HeadFacts:
    """A classification or regression head. `classes` by id, empty for regression; `mean` and `std` scale numbers."""

    kind: str
    path: str
    n_bytes: int
    architecture: str | None
    task: str
    classes: tuple[str, ...]
    text_column: str
    target_column: str
    mean: float
    std: float
    tensor_types: tuple[TensorType, ...]
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class OtherGGUF:
    """A GGUF file of another kind (an importance matrix, a projector ...): its own keys and its tensors."""

    kind: str
    path: str
    n_bytes: int
    type: str | None
    keys: Mapping[str, str]
    tensor_types: tuple[TensorType, ...]
