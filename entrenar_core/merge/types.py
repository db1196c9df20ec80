"""Which GGML type each tensor of a merged model is written in.

Without a type in the config a tensor has that of the base, or of the first model it is made of. A matrix that was
rounded to few bits is rounded to them again, and that is said. Where nobody encodes a type, Q8_0 takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.codecs.registry import ENCODABLE
from entrenar_core.errors import ConfigError
from entrenar_core.merge.plan import MergedTensor, MergePlan
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import MixRequest, choose_types, quantizes

READ_ONLY_BECOMES = "Q8_0"
"""What a matrix of a type that cannot be encoded becomes: rows of every block type divide into its blocks."""

FLOAT_TYPE = "F16"
"""What few bits become where no blocks can be written."""

VECTOR_TYPE = "F32"
"""What a vector of few bits becomes: llama.cpp reads vectors of nothing else."""


@dataclass(frozen=True)
class MergedTypes:
    """The types by name, and where they are not what one would expect.

    Attributes:
        types: of every tensor.
        rounded_again: matrices that get few bits because their inputs have them, by type.
        not_encodable: matrices whose own type nobody encodes, by type.
        fell_back: matrices whose rows do not fit the blocks of the mix, by what was wanted and what they get.
    """

    types: Mapping[str, str]
    rounded_again: Counter[str] = field(default_factory=Counter)
    not_encodable: Counter[str] = field(default_factory=Counter)
    fell_back: Counter[tuple[str, str]] = field(default_factory=Counter)

    def notices(self) -> Iterator[str]:
        """What is worth saying."""
        if self.rounded_again:
            counts = _counted(self.rounded_again)
            yield f"merged matrices are rounded again to the few bits of their inputs: {counts}; --type f16 keeps more"
        if self.not_encodable:
            yield (
                f"matrices whose type can be read but not written become {READ_ONLY_BECOMES}:"
                f" {_counted(self.not_encodable)}"
            )
        for (wanted, got), count in self.fell_back.items():
            yield f"{count} x {got} instead of {wanted}: rows do not divide into its blocks"


def merged_types(plan: MergePlan, mix: str | None, facts: ModelFacts) -> MergedTypes:
    """The types of the result.

    Args:
        plan: what is merged.
        mix: a type or mix; None for those of the inputs.
        facts: of the result, which some mixes look at.

    Raises:
        ConfigError: a type that cannot be written.
    """
    present = {tensor.name: _present(plan, index) for index, tensor in enumerate(plan.tensors)}
    if mix is None:
        return _own_types(plan, present)
    sources = {tensor.name: (tensor.shape, _own_type(tensor.name, tensor.shape, present)) for tensor in plan.tensors}
    chosen = choose_types(sources, MixRequest(mix, model=facts))
    unknown = sorted({one.type_name for one in chosen.values()} - ENCODABLE)
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} can be read, but not written yet",
            where="output.type",
            hint=f"types that can be written: {', '.join(sorted(ENCODABLE))}",
        )
    fell_back = Counter((one.wanted, one.type_name) for one in chosen.values() if one.fell_back)
    return MergedTypes({name: one.type_name for name, one in chosen.items()}, fell_back=fell_back)


def folder_types(plan: MergePlan, kind: str | None) -> MergedTypes:
    """The types of the result as safetensors: all of one float type, or each that of its input; F16 for few bits.

    Args:
        plan: what is merged.
        kind: f32, f16 or bf16; None for those of the inputs.
    """
    names = [tensor.name for tensor in plan.tensors]
    if kind is not None:
        return MergedTypes(dict.fromkeys(names, kind.upper()))
    present = [_present(plan, index) for index in range(len(names))]
    return MergedTypes(
        {name: FLOAT_TYPE if is_few_bits(one) else one for name, one in zip(names, present, strict=True)}
    )


def _present(plan: MergePlan, index: int) -> str:
    """The type of the base's tensor, or of the first input's."""
    like = plan.tensors[index].like
    return plan.models[like.model].type_name(like.name)


def _own_types(plan: MergePlan, present: Mapping[str, str]) -> MergedTypes:
    found = MergedTypes({tensor.name: _own_type(tensor.name, tensor.shape, present) for tensor in plan.tensors})
    for tensor in plan.tensors:
        kind, before = found.types[tensor.name], present[tensor.name]
        found.not_encodable[before] += kind == READ_ONLY_BECOMES != before
        found.rounded_again[kind] += is_few_bits(kind) and kind == before and not _is_copied(plan, tensor)
    return MergedTypes(found.types, +found.rounded_again, +found.not_encodable)


def _is_copied(plan: MergePlan, tensor: MergedTensor) -> bool:
    """Whether the packed rows of an input are written as they are."""
    first = tensor.inputs[0]
    return tensor.is_copy and plan.models[first.model].packed(first.name) is not None


def _own_type(name: str, shape: tuple[int, ...], present: Mapping[str, str]) -> str:
    kind = present[name]
    if not quantizes(name, shape) and (is_few_bits(kind) or kind not in ENCODABLE):
        return VECTOR_TYPE
    return kind if kind in ENCODABLE else READ_ONLY_BECOMES


def _counted(types: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.most_common())
