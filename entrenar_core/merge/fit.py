"""Whether models can be merged: the same architecture, the same tensors, and the same computation with them.

Weights that another model turns by other angles or splits into other heads mean something else, though their shapes may
agree. What only says how long a text may be, or how the file came about, may differ; that is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.names import OUTPUT, ROPE_FREQS, TOKEN_EMBD
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.merge.model_tensors import Floats, ModelTensors, Shape

_NOT_COMPUTED_WITH = frozenset(
    (keys.CONTEXT_LENGTH, keys.VOCAB_SIZE, keys.BLOCK_COUNT, keys.LAYER_NORM_RMS_EPSILON, keys.ROPE_SCALING_FINETUNED)
)
"""Keys whose values may differ. A small constant in a root changes no more than rounding does."""

_SCALING = (
    keys.ROPE_SCALING_TYPE,
    keys.ROPE_SCALING_FACTOR,
    keys.ROPE_SCALE_LINEAR,
    keys.ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH,
)

Settings = dict[str, object]

_MUST_BE_IN_BOTH = frozenset(
    (keys.ATTENTION_SCALE, keys.ATTENTION_LOGIT_SOFTCAPPING, keys.FINAL_LOGIT_SOFTCAPPING, keys.HEAD_COUNT)
)
_RELATIVE_TOLERANCE = 1e-5  # a number that went through float32 in one of the files
_BY_TOKEN = (TOKEN_EMBD, OUTPUT)
_BLOCK = re.compile(r"blk\.\d+\.")


@dataclass(frozen=True)
class ModelFacts:
    """What is compared of a model: path for messages, shapes by tensor name, the keys of its architecture without
    ``{architecture}.`` in front, and rope_freqs [P] if it has them."""

    path: str
    architecture: str
    shapes: Mapping[str, Shape]
    settings: Mapping[str, object]
    rope_factors: Floats | None


def facts_of(model: ModelTensors) -> ModelFacts:
    """The facts of an input of a merge. Raises FormatError when its rope_freqs cannot be read."""
    prefix = f"{model.architecture}."
    settings = {key.removeprefix(prefix): value.plain for key, value in model.metadata if key.startswith(prefix)}
    factors = None
    if ROPE_FREQS in model.shapes:
        factors = np.empty((1, math.prod(model.shapes[ROPE_FREQS])), np.float32)
        model.read(ROPE_FREQS, 0, factors)
    return ModelFacts(model.path, model.architecture, model.shapes, settings, factors)


def facts_of_file(file: GGUFFile) -> ModelFacts:
    """The facts of a GGUF model. Raises FormatError when its rope_freqs cannot be read."""
    architecture = str(file.metadata.get(keys.GENERAL_ARCHITECTURE))
    prefix = f"{architecture}."
    settings = {key.removeprefix(prefix): file.metadata[key] for key in file.metadata if key.startswith(prefix)}
    shapes = {name: tuple(info.shape) for name, info in file.tensors.items()}
    factors = file.load(ROPE_FREQS).reshape(1, -1) if ROPE_FREQS in file.tensors else None
    return ModelFacts(str(file.paths[0]), architecture, shapes, settings, factors)


def check_fit(model: ModelFacts, base: ModelFacts, *, same_depth: bool = True, same_tokens: bool = True) -> list[str]:
    """See that a model can be merged with a base (or with the first model, where there is no base).

    Args:
        model: what is checked, and what errors name.
        base: what it has to fit.
        same_depth: False where layers are picked from models: then their numbers may differ, and the tensors of a
            model's blocks are compared with those of any block of the base.
        same_tokens: False where the rows of embeddings are mapped to tokens: then their numbers may differ.

    Returns:
        What differs and does not matter, as sentences.

    Raises:
        ModelError: another architecture, another tensor or shape, or a setting that makes another computation.
    """
    if model.architecture != base.architecture:
        raise ModelError(
            f"the architecture is {model.architecture}, that of {base.path} is {base.architecture}",
            where=model.path,
            hint="only models of one architecture can be merged",
        )
    _check_tensors(model, base, same_depth=same_depth, of_any_rows=() if same_tokens else _BY_TOKEN)
    ours, theirs = _effective(model.settings), _effective(base.settings)
    for key in sorted(ours.keys() | theirs.keys()):
        if not _may_differ(key, ours, theirs):
            raise _computes_otherwise(f"{model.architecture}.{key}", ours.get(key), theirs.get(key), model, base)
    _check_rope_factors(model, base)
    return [
        f"{model.path}: {model.architecture}.{key} is {_text(ours.get(key))}, that of {base.path} is "
        f"{_text(theirs.get(key))}, which the result has"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in (keys.BLOCK_COUNT, keys.VOCAB_SIZE) and not _equal(ours.get(key), theirs.get(key))
    ]


def _check_tensors(model: ModelFacts, base: ModelFacts, *, same_depth: bool, of_any_rows: Collection[str]) -> None:
    ours, theirs = (one.shapes if same_depth else _one_block(one.shapes) for one in (model, base))
    problem = next(_tensor_problems(ours, theirs, base.path, of_any_rows), None)
    if problem is not None:
        message, hint = problem
        raise ModelError(
            message,
            where=model.path,
            hint=hint or f"only models of the shape of {base.path} can be merged with it",
        )


def _tensor_problems(
    ours: Mapping[str, Shape], base: Mapping[str, Shape], base_path: str, of_any_rows: Collection[str]
) -> Iterator[tuple[str, str | None]]:
    """Message and hint of what is missing, of another shape, or too much. `of_any_rows`: only rows may differ."""
    for name, shape in base.items():
        if name not in ours:
            yield f"the tensor {name} is missing, which {base_path} has", _tied_hint(name)
        elif ours[name] != shape:
            hint = None
            if name in _BY_TOKEN and ours[name][1:] == shape[1:]:
                if name in of_any_rows:
                    continue
                hint = "the vocabularies differ: set merge.tokenizer: union, or base"
            yield f"the tensor {name} has shape {list(ours[name])}, in {base_path} {list(shape)}", hint
    for name in ours:
        if name not in base:
            yield f"{base_path} has no tensor {name}", _tied_hint(name)


def _one_block(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The tensors of all blocks under the names ``blk.*...``; where blocks differ, that of the first one."""
    joined: dict[str, Shape] = {}
    for name, shape in shapes.items():
        joined.setdefault(_BLOCK.sub("blk.*.", name), shape)
    return joined


def _tied_hint(name: str) -> str | None:
    return "one of the models uses its embedding as the output matrix, the other does not" if name == OUTPUT else None


def _effective(settings: Mapping[str, object]) -> Settings:
    """The settings with what the absence of a key means."""
    known = {key: _plain(value) for key, value in settings.items() if key not in _SCALING}

    def assume(key: str, default: object) -> object:
        if known.get(key) is None:
            known[key] = default
        return known[key]

    assume(keys.HEAD_COUNT_KV, known.get(keys.HEAD_COUNT))
    head_size = assume(keys.KEY_LENGTH, _head_size(known))
    assume(keys.VALUE_LENGTH, head_size)
    assume(keys.ROPE_DIMENSION_COUNT, head_size)
    assume(keys.ROPE_FREQ_BASE, 10000.0)
    assume(keys.ROPE_SCALING_ATTENTION_FACTOR, 1.0)
    assume(keys.EXPERT_COUNT, 0)
    assume(keys.EXPERT_USED_COUNT, 0)
    kind, factor = _rope_scaling(settings)
    known[keys.ROPE_SCALING_TYPE], known[keys.ROPE_SCALING_FACTOR] = kind, factor
    if kind not in ("none", "linear"):
        known[keys.ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH] = settings.get(keys.ROPE_SCALING_ORIGINAL_CONTEXT_LENGTH)
    return known


def _rope_scaling(settings: Mapping[str, object]) -> tuple[str, float]:
    """Type and factor; as in llama.cpp a factor without a type is linear, and a factor of 0 is none."""
    kind = settings.get(keys.ROPE_SCALING_TYPE)
    factor = settings.get(keys.ROPE_SCALING_FACTOR, settings.get(keys.ROPE_SCALE_LINEAR, 1.0))
    if kind == "none" or not isinstance(factor, int | float) or factor == 0:
        return "none", 1.0
    if kind in (None, "linear"):
        return ("none", 1.0) if factor == 1 else ("linear", float(factor))
    return str(kind), float(factor)


def _head_size(known: Settings) -> object:
    width, heads = known.get(keys.EMBEDDING_LENGTH), known.get(keys.HEAD_COUNT)
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _may_differ(key: str, ours: Settings, theirs: Settings) -> bool:
    if key in _NOT_COMPUTED_WITH or _equal(ours.get(key), theirs.get(key)):
        return True
    return key not in _MUST_BE_IN_BOTH and (ours.get(key) is None or theirs.get(key) is None)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE)
    return one == other


def _plain(value: object) -> object:
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


def _text(value: object) -> str:
    return "not given" if value is None else str(value)


def _computes_otherwise(what: str, ours: object, theirs: object, model: ModelFacts, base: ModelFacts) -> ModelError:
    return ModelError(
        f"{what} is {_text(ours)}, in {base.path} {_text(theirs)}",
        where=model.path,
        hint="the models compute differently, so their weights cannot be joined",
    )


def _check_rope_factors(model: ModelFacts, base: ModelFacts) -> None:
    ours, theirs = model.rope_factors, base.rope_factors
    if ours is None or theirs is None:
        return  # then the tensor is missing in both
    wrong = np.flatnonzero(~np.isclose(ours[0], theirs[0], rtol=_RELATIVE_TOLERANCE, atol=0))
    if len(wrong):
        first = int(wrong[0])
        raise _computes_otherwise(f"{ROPE_FREQS}[{first}]", ours[0][first], theirs[0][first], model, base)
