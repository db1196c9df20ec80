"""Tensor names of GGUF and of Hugging Face, both ways, and the row order of the rotary projections.

GGUF names a tensor ``blk.3.attn_q.weight``, Hugging Face ``model.layers.3.self_attn.q_proj.weight``. For `llama` the
rows of attn_q and attn_k also stand in another order: the pairs that RoPE turns are neighbours in GGUF and half a head
apart in Hugging Face.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import ConfigError, FormatError, ModelError

Scalar = TypeVar("Scalar", bound=np.generic)

ARCHITECTURES: tuple[str, ...] = ("llama", "qwen2", "qwen3")

PERMUTED_ARCHITECTURES: frozenset[str] = frozenset(
    ("llama", "smollm3", "mistral3", "granite", "olmo", "minicpm", "internlm2", "deci", "deepseek", "arcee")
)
"""GGUF architectures whose attn_q and attn_k rows are permuted against Hugging Face (llama.cpp's converters)."""

TOKEN_EMBD = "token_embd.weight"
OUTPUT = "output.weight"
OUTPUT_NORM = "output_norm.weight"
ROPE_FREQS = "rope_freqs.weight"

MODULES: dict[str, str] = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
"""Names that people give LoRA targets, and the GGUF tensors they mean."""

_GLOBAL_TO_HF = {
    TOKEN_EMBD: "model.embed_tokens.weight",
    OUTPUT_NORM: "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
_GLOBAL_TO_GGUF = {hf: gguf for gguf, hf in _GLOBAL_TO_HF.items()}

_BLOCK_TO_HF = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_ARCHITECTURES_WITH_HEAD_NORMS = frozenset(("qwen3",))

_GGUF_BLOCK = re.compile(r"blk\.(?P<layer>0|[1-9]\d*)\.(?P<module>[a-z0-9_]+)\.(?P<kind>weight|bias)")
_ROPE_ROWS = re.compile(r"blk\.\d+\.attn_[qk]\.(weight(\.lora_b)?|bias)")
_HF_BLOCK = re.compile(r"model\.layers\.(?P<layer>0|[1-9]\d*)\.(?P<module>[a-z0-9_.]+)\.(?P<kind>weight|bias)")


def block_tensor(layer: int, module: str, kind: str = "weight") -> str:
    """``(3, "attn_q")`` to ``"blk.3.attn_q.weight"``."""
    return f"blk.{layer}.{module}.{kind}"


def to_hugging_face(name: str, architecture: str) -> str | None:
    """The Hugging Face name of a GGUF tensor; None for `rope_freqs`, which lives in config.json there.

    Raises ModelError for an unknown architecture, FormatError for a tensor it does not have.
    """
    modules = _block_modules(architecture)
    if name == ROPE_FREQS:
        return None
    if name in _GLOBAL_TO_HF:
        return _GLOBAL_TO_HF[name]
    match = _GGUF_BLOCK.fullmatch(name)
    if match is None or match["module"] not in modules:
        raise _unknown_tensor(name, architecture, "GGUF")
    return f"model.layers.{match['layer']}.{modules[match['module']]}.{match['kind']}"


def to_gguf(name: str, architecture: str) -> str:
    """The GGUF name of a Hugging Face tensor. Raises as `to_hugging_face` does."""
    modules = {hf: gguf for gguf, hf in _block_modules(architecture).items()}
    if name in _GLOBAL_TO_GGUF:
        return _GLOBAL_TO_GGUF[name]
    match = _HF_BLOCK.fullmatch(name)
    if match is None or match["module"] not in modules:
        raise _unknown_tensor(name, architecture, "Hugging Face")
    return f"blk.{match['layer']}.{modules[match['module']]}.{match['kind']}"


def module_to_gguf(name: str) -> str:
    """``q_proj`` (or ``attn_q`` itself) to ``attn_q``. Raises ConfigError, with the nearest name, for anything else."""
    if name in MODULES:
        return MODULES[name]
    if name in MODULES.values():
        return name
    known = [*MODULES, *MODULES.values()]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"unknown module {name!r}",
        hint=(f"did you mean {near[0]!r}? " if near else "") + f"modules are {', '.join(MODULES)}",
    )


def module_to_hugging_face(name: str) -> str:
    """``attn_q`` (or ``q_proj`` itself) to ``q_proj``. Raises ConfigError like `module_to_gguf`."""
    gguf_name = module_to_gguf(name)
    return next(hf for hf, gguf in MODULES.items() if gguf == gguf_name)


def has_permuted_rows(name: str, architecture: str) -> bool:
    """Whether this GGUF tensor (weight, bias, LoRA B) has its rows in another order than Hugging Face."""
    return architecture in PERMUTED_ARCHITECTURES and _ROPE_ROWS.fullmatch(name) is not None


def permute_rope_rows(array: npt.NDArray[Scalar], n_heads: int) -> npt.NDArray[Scalar]:
    """Hugging Face row order to GGUF's, for attn_q (H heads) and attn_k (K heads) of `llama`.

    The first axis (H·E rows) is seen as (H, 2, E/2) and its last two parts are swapped. Works on weights, biases,
    LoRA B matrices and packed bytes. Returns a new array.
    """
    return _swap_row_parts(array, n_heads, halves_first=True)


def unpermute_rope_rows(array: npt.NDArray[Scalar], n_heads: int) -> npt.NDArray[Scalar]:
    """GGUF row order to Hugging Face's: the inverse of `permute_rope_rows`."""
    return _swap_row_parts(array, n_heads, halves_first=False)


def _swap_row_parts(array: npt.NDArray[Any], n_heads: int, *, halves_first: bool) -> npt.NDArray[Any]:
    rows = array.shape[0]
    if n_heads <= 0 or rows % (2 * n_heads):
        raise FormatError(f"{rows} rows do not divide into {n_heads} heads of an even size")
    half = rows // (2 * n_heads)
    parts = (2, half) if halves_first else (half, 2)
    return array.reshape(n_heads, *parts, *array.shape[1:]).swapaxes(1, 2).copy().reshape(array.shape)


def _block_modules(architecture: str) -> dict[str, str]:
    """GGUF module name to Hugging Face module name inside one block."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {architecture!r}", hint=f"supported architectures: {', '.join(ARCHITECTURES)}"
        )
    return _BLOCK_TO_HF | _HEAD_NORMS if architecture in _ARCHITECTURES_WITH_HEAD_NORMS else _BLOCK_TO_HF


def _unknown_tensor(name: str, architecture: str, world: str) -> FormatError:
    return FormatError(
        f"{architecture} has no tensor named {name} in {world}",
        hint="the model has parts that entrenar does not know, or its architecture is another one",
    )
