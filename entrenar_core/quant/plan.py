"""What becomes of each tensor of a file: copied as it is, or written in another type.

Only names, shapes and types are looked at, so any architecture can be planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, is_few_bits
from entrenar_core.codecs.registry import ENCODABLE
from entrenar_core.errors import ConfigError, FormatError, ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import ChosenType, quantizes

NAMED_TENSORS = 3
"""So many tensors are named in a message, the others are counted."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the source and the type it is written in; `wanted` is another one where its rows did not fit that."""

    info: TensorInfo
    type_name: str
    wanted: str = ""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def is_copied(self) -> bool:
        return self.type_name == self.info.type_name

    @property
    def fell_back(self) -> bool:
        return self.wanted not in ("", self.type_name) and not self.is_copied

    @property
    def n_bytes(self) -> int:
        """Size of what is written."""
        return tensor_bytes(self.info.shape, TYPE_BY_NAME[self.type_name])

    @property
    def n_rows(self) -> int:
        return math.prod(self.info.shape[:-1])

    @property
    def n_columns(self) -> int:
        return self.info.shape[-1] if self.info.shape else 1


def check_quantizable(file: GGUFFile) -> None:
    """Refuse files that hold no model.

    Raises:
        ModelError: an adapter, or a file without matrices.
    """
    where = str(file.paths[0])
    kind = file.metadata.get(keys.GENERAL_TYPE, "model")
    if kind == "adapter":
        raise ModelError(
            "this is a LoRA adapter: its matrices are small and are added to full-precision products",
            where=where,
            hint="merge it into its base model first, then quantize that",
        )
    if kind == "imatrix":
        raise ModelError(
            "this is an importance matrix, not a model", where=where, hint="give it with --imatrix and a model"
        )
    if not any(quantizes(info.name, info.shape) for info in file.tensors.values()):
        what = "no tensors: it is a vocabulary alone" if not file.tensors else "no matrices that could be quantized"
        raise ModelError(f"the file has {what}", where=where, hint="give the file of a model with weights")


def model_facts(metadata: Mapping[str, object]) -> ModelFacts:
    """What the mixes look at besides the tensors: the architecture and its heads, layers and experts.

    `metadata` has the plain values of a model by key.
    """
    architecture = str(metadata.get(keys.GENERAL_ARCHITECTURE, ""))

    def number(suffix: str) -> int:
        value = metadata.get(keys.architecture_key(architecture, suffix), 0)
        first = next(iter(value), 0) if isinstance(value, (list, np.ndarray)) else value
        return int(first) if isinstance(first, (int, np.integer)) else 0

    return ModelFacts(
        architecture=architecture,
        layers=number(keys.BLOCK_COUNT),
        heads=number(keys.HEAD_COUNT),
        kv_heads=number(keys.HEAD_COUNT_KV),
        experts=number("expert_count"),
    )


def shapes_and_types(file: GGUFFile) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape in numpy order and type of each tensor, in file order."""
    return {name: (tuple(info.shape), info.type_name) for name, info in file.tensors.items()}


def plan_tensors(
    file: GGUFFile, chosen: Mapping[str, ChosenType], *, allow_requantize: bool = False
) -> list[PlannedTensor]:
    """The tensors of a file with the types chosen for them, in file order.

    Args:
        file: the source.
        chosen: see `mixes.choose_types`.
        allow_requantize: whether tensors of few bits may be rounded to other few bits.

    Raises:
        FormatError: tensors would be rounded a second time and that is not allowed.
        ConfigError: a type that this version cannot write.
    """
    plan = [PlannedTensor(info, chosen[name].type_name, chosen[name].wanted) for name, info in file.tensors.items()]
    unknown = sorted({one.type_name for one in plan if not one.is_copied} - ENCODABLE)
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} can be read, but not written yet",
            where="quantize.type",
            hint=f"types that can be written: {', '.join(sorted(ENCODABLE))}",
        )
    again = [one.name for one in plan if _is_rounded_again(one)]
    if again and not allow_requantize:
        raise _few_bits_already(again, file)
    return plan


def _few_bits_already(names: Sequence[str], file: GGUFFile) -> FormatError:
    kinds = ", ".join(sorted({file.tensors[name].type_name for name in names}))
    who, them = ("1 tensor has", "it") if len(names) == 1 else (f"{len(names)} tensors have", "them")
    return FormatError(
        f"{who} few bits already ({kinds}): {named(names)}; rounding {them} again loses quality",
        where=str(file.paths[0]),
        hint="quantize the F16 or F32 model; or do it all the same with --allow-requantize",
    )


def named(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - NAMED_TENSORS
    return ", ".join(names[:NAMED_TENSORS]) + (f" and {more} more" if more > 0 else "")


def _is_rounded_again(one: PlannedTensor) -> bool:
    return not one.is_copied and is_few_bits(one.info.type_name) and is_few_bits(one.type_name)
