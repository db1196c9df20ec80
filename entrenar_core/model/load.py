"""A language model from a GGUF file: every tensor that the architecture needs, checked by name and shape first.

A file with a tensor that this engine would not use is refused too: computing without it would be a different model.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.errors import ModelError
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.packed import PackedWeight, float_matrices, own_blocks, pack_tensor
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec, spec_from_metadata
from entrenar_core.threads import Threads

Shape = tuple[int, ...]
_MATRIX_AXES = 2


def block_shapes(spec: DecoderSpec, layer: int) -> dict[str, Shape]:
    """Name and shape [out, in] of every weight of one block, in the order that files use."""
    d, f, prefix = spec.hidden_size, spec.intermediate_size, f"blk.{layer}"
    shapes: dict[str, Shape] = {
        f"{prefix}.attn_norm.weight": (d,),
        f"{prefix}.attn_q.weight": (spec.query_size, d),
        f"{prefix}.attn_k.weight": (spec.kv_size, d),
        f"{prefix}.attn_v.weight": (spec.kv_size, d),
        f"{prefix}.attn_output.weight": (d, spec.query_size),
        f"{prefix}.ffn_norm.weight": (d,),
        f"{prefix}.ffn_gate.weight": (f, d),
        f"{prefix}.ffn_up.weight": (f, d),
        f"{prefix}.ffn_down.weight": (d, f),
    }
    if spec.traits.qk_norm:
        shapes[f"{prefix}.attn_q_norm.weight"] = (spec.head_dim,)
        shapes[f"{prefix}.attn_k_norm.weight"] = (spec.head_dim,)
    if spec.traits.qkv_bias:
        shapes.update(bias_shapes(shapes, ("attn_q", "attn_k", "attn_v")))
    return shapes


def bias_shapes(shapes: Mapping[str, Shape], modules: tuple[str, ...]) -> dict[str, Shape]:
    """The biases that belong to the weights of the named modules: one value an output row."""
    return {
        name.replace(".weight", ".bias"): shape[:1]
        for name, shape in shapes.items()
        if name.split(".")[-2] in modules and len(shape) > 1
    }


def expected_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Name and shape of every tensor that a model of this shape must have."""
    shapes: dict[str, Shape] = {"token_embd.weight": (spec.vocab_size, spec.hidden_size)}
    for layer in range(spec.num_layers):
        shapes.update(block_shapes(spec, layer))
    shapes["output_norm.weight"] = (spec.hidden_size,)
    if not spec.tie_embeddings:
        shapes["output.weight"] = (spec.vocab_size, spec.hidden_size)
    return shapes


def optional_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Biases that some llama files have, and the RoPE factors."""
    shapes: dict[str, Shape] = {ROPE_FREQS: (spec.rope_dimensions // 2,)}
    modules = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for layer in range(spec.num_layers):
        shapes.update(bias_shapes(block_shapes(spec, layer), modules))
    return shapes


def read_spec(file: GGUFFile) -> DecoderSpec:
    """The shape of the model in a GGUF file.

    Raises:
        ModelError: an unknown architecture, missing hyperparameters, or tensors that do not fit them.
    """
    source = str(file.paths[0])
    traits = traits_of(file.metadata.get("general.architecture"), source)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        is_model = file.tensors and file.metadata.get("general.type") != "adapter"
        hint = None if is_model else "this is a vocabulary or an adapter, not a model"
        raise ModelError("there is no matrix token_embd.weight", where=source, hint=hint)
    spec = spec_from_metadata(
        traits,
        file.metadata,
        vocab_size=embedding.shape[0],
        tie_embeddings="output.weight" not in file.tensors,
        source=source,
    )
    check_shapes({name: tuple(info.shape) for name, info in file.tensors.items()}, spec, source)
    return spec


def check_shapes(shapes: Mapping[str, Shape], spec: DecoderSpec, source: str) -> None:
    """See that a model has every tensor of its architecture, by name and shape, and no other.

    Raises:
        ModelError: names the tensor; `source` is where.
    """
    if spec.num_layers > len(shapes):  # a number that somebody else wrote: nothing may grow with it
        message = f"{spec.num_layers} layers cannot be made of {len(shapes)} tensors"
        raise ModelError(message, where=source, hint="the file is incomplete")
    expected, optional = expected_shapes(spec), optional_shapes(spec)
    for name in expected:
        if name not in shapes:
            raise ModelError(f"the tensor {name} is missing", where=source, hint="the file is incomplete")
    for name, found in shapes.items():
        shape = expected.get(name) or optional.get(name)
        if shape is None:
            raise ModelError(
                f"the tensor {name} has no place in a {spec.architecture} model",
                where=source,
                hint="this variant of the architecture is not supported",
            )
        if found != shape:
            raise ModelError(f"the tensor {name} has shape {list(found)}, expected {list(shape)}", where=source)


def load_model(
    file: GGUFFile,
    backend: Backend,
    *,
    trainable: bool = False,
    checkpoint_activations: bool = False,
    held_as: Mapping[str, str] | None = None,
) -> LanguageModel:
    """The model in a GGUF file, on a backend.

    Args:
        file: any type of tensor that can be decoded; stays open for as long as the model is used.
        backend: where it will compute; weights become arrays of its dtype.
        trainable: every weight wants gradients (full fine-tuning) and is held in full precision; else all are frozen.
        checkpoint_activations: see `LanguageModel`.
        held_as: the block types that frozen matrices are held in, by name; all others are held in full precision. None:
            what is in blocks in the file is used where it lies, memory-mapped. See `model.packed`.

    Raises:
        ModelError: see `read_spec`; or a packed model shall be trained.
        FormatError: a tensor cannot be decoded, or its values do not fit the block type.
    """
    if trainable and held_as:
        raise ModelError(f"weights in {min(held_as.values())} blocks cannot be trained", hint="add a lora section")
    spec = read_spec(file)
    if held_as is None:
        held_as = {} if trainable else own_blocks(file.tensors)
    if backend.takes_floats_packed and not trainable:
        held_as = {**float_matrices(file.tensors), **held_as}
    weights: dict[str, Tensor | PackedWeight] = {}
    with closing(Threads(backend.n_threads)) as threads:
        for name in file.tensors:
            if name == ROPE_FREQS:
                continue
            if name in held_as:
                weights[name] = PackedWeight(name, pack_tensor(file, name, held_as[name], threads), backend)
            else:
                weights[name] = Tensor(backend.asarray(file.load(name)), backend, requires_grad=trainable, name=name)
    return LanguageModel(
        spec,
        weights,
        backend,
        rope_factors=read_rope_factors(file),
        checkpoint_activations=checkpoint_activations,
    )


def load_mapped(file: GGUFFile, backend: Backend) -> LanguageModel:
    """The frozen model with its matrices where they lie in the file, whatever their type.

    Tiles of a matrix are decoded as they are multiplied by, and of the embedding the rows at hand, so besides vectors
    the model takes no memory but the pages of its file, which stays open for as long as the model is used.

    Raises:
        ModelError: see `read_spec`.
        FormatError: a tensor cannot be decoded.
    """
    weights: dict[str, Tensor | PackedWeight] = {}
    for name, info in file.tensors.items():
        if name == ROPE_FREQS:
            continue
        if len(info.shape) == _MATRIX_AXES:
            weights[name] = PackedWeight(name, PackedMatrix(file.raw(name), info.type_name), backend)
        else:
            weights[name] = Tensor(backend.asarray(file.load(name)), backend, name=name)
    return LanguageModel(read_spec(file), weights, backend, rope_factors=read_rope_factors(file))


def read_rope_factors(file: GGUFFile) -> np.ndarray | None:
    """rope_freqs.weight [P], or None."""
    return file.load(ROPE_FREQS) if ROPE_FREQS in file.tensors else None
