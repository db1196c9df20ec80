"""What a decoder looks like, in numbers: read from GGUF metadata or chosen by a person, written back as metadata.

An architecture file fills in what its name implies (`Traits`); everything else is shared. What this engine does not
compute (experts, YaRN, per-layer head counts) is refused here, by name, before any weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from entrenar_core.backend.base import RopePairing
from entrenar_core.errors import ModelError


@dataclass(frozen=True)
class Traits:
    """What an architecture's name implies.

    rope_pairing: which components of a head rotate together. qkv_bias: q, k and v have biases. qk_norm: each head of
    q and k goes through an RMS norm of size E before RoPE.
    """

    architecture: str
    rope_pairing: RopePairing
    qkv_bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True)
class DecoderSpec:
    """Sizes and constants of a decoder. `rope_scale` divides positions' angles (linear scaling: 1/factor)."""

    traits: Traits
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_dimensions: int
    rope_scale: float = 1.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads != 0:
            raise ModelError(f"{self.num_heads} heads are no multiple of {self.num_kv_heads} kv heads")
        if self.rope_dimensions % 2 != 0 or self.rope_dimensions > self.head_dim:
            raise ModelError(f"rope over {self.rope_dimensions} components of a head of {self.head_dim}")

    @property
    def architecture(self) -> str:
        return self.traits.architecture

    @property
    def query_size(self) -> int:
        """Rows of attn_q: heads times head size."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of attn_k and attn_v."""
        return self.num_kv_heads * self.head_dim

    @property
    def softmax_scale(self) -> float:
        return float(self.head_dim) ** -0.5


class _Keys:
    """The hyperparameters of one architecture in a metadata mapping, with types checked."""

    def __init__(self, metadata: Mapping[str, object], architecture: str, source: str) -> None:
        self.metadata = metadata
        self.architecture = architecture
        self.source = source

    def _value(self, key: str) -> object:
        return self.metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive integer, the same for all layers."""
        value = self._value(key)
        if value is None and default is not None:
            return default
        name = f"{self.architecture}.{key}"
        if value is None:
            raise ModelError(f"the metadata key {name!r} is missing", where=self.source)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelError(
                f"{name!r} is {type(value).__name__}; values that differ by layer are not supported", where=self.source
            )
        if value <= 0:
            raise ModelError(f"{name!r} is {value}; it must be positive", where=self.source)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._value(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise ModelError(f"{self.architecture}.{key} is {value!r}; it must be a positive number", where=self.source)
        return float(value)

    def rope_scale(self) -> float:
        """1/factor, read as llama.cpp does: a factor without a type is linear scaling, and a factor of 0 is none."""
        kind = self._value("rope.scaling.type")
        if kind not in (None, "none", "linear"):
            raise ModelError(f"rope scaling {kind!r} is not supported (known: none, linear)", where=self.source)
        present = (key for key in ("rope.scaling.factor", "rope.scale_linear") if self._value(key) is not None)
        key = next(present, None)
        if kind == "none" or key is None or self._value(key) == 0:
            return 1.0
        return 1.0 / self.number(key)

    def refuse_unsupported(self) -> None:
        """Refuse the keys that would make it another model, where ignoring them would compute a wrong one."""
        if self._value("expert_count") not in (None, 0):
            raise ModelError("mixture-of-experts models are not supported", where=self.source)
        if self._value("attention.causal") is False:
            raise ModelError("models without a causal mask are not supported", where=self.source)
        if self._value("rope.scaling.attn_factor") not in (None, 1.0):
            raise ModelError(f"{self.architecture}.rope.scaling.attn_factor is not supported", where=self.source)


def spec_from_metadata(
    traits: Traits, metadata: Mapping[str, object], *, vocab_size: int, tie_embeddings: bool, source: str
) -> DecoderSpec:
    """The decoder that GGUF metadata describes.

    Args:
        traits: of the architecture that ``general.architecture`` names.
        metadata: GGUF keys and values.
        vocab_size: rows of token_embd, which the metadata need not state.
        tie_embeddings: there is no output.weight.
        source: the file, for messages.

    Raises:
        ModelError: a key is missing, of a wrong type, or asks for what is not supported.
    """
    keys = _Keys(metadata, traits.architecture, source)
    keys.refuse_unsupported()
    hidden_size = keys.integer("embedding_length")
    num_heads = keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", max(1, hidden_size // num_heads))
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise ModelError("attention.value_length differs from attention.key_length", where=source)
    try:
        return DecoderSpec(
            traits=traits,
            num_layers=keys.integer("block_count"),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=keys.integer("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            intermediate_size=keys.integer("feed_forward_length"),
            vocab_size=vocab_size,
            context_length=keys.integer("context_length"),
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            rope_theta=keys.number("rope.freq_base", 10000.0),
            rope_dimensions=keys.integer("rope.dimension_count", head_dim),
            rope_scale=keys.rope_scale(),
            tie_embeddings=tie_embeddings,
        )
    except ModelError as error:
        raise ModelError(error.message, where=error.where or source, hint=error.hint) from error
