"""``--target-size``: types by measured sensitivity, so that the whole file is as large as allowed and no larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, is_few_bits
from entrenar_core.errors import ConfigError
from entrenar_core.events import Progress, Reporter
from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.layout import aligned, lay_out
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.quant.allocate import Candidate, allocate
from entrenar_core.quant.convert import Importance
from entrenar_core.quant.mixes import ChosenType, MixRequest, quantizes, stated_types
from entrenar_core.quant.plan import PlannedTensor, shapes_and_types
from entrenar_core.quant.sensitivity import candidate_types, measure_sensitivity
from entrenar_core.quant.source import RowSource
from entrenar_core.stages.kernels import load_codecs

_FILE_TYPES: Mapping[str, FileType] = {
    "Q3_K": FileType.Q3_K_M,
    "Q4_K": FileType.Q4_K_M,
    "Q5_K": FileType.Q5_K_M,
    **{kind.name: kind for kind in FileType},
}
_TASK = "measuring"


@dataclass(frozen=True)
class TargetSize:
    """At most `n_bytes` for the whole file. request: what it says of single tensors holds. allow_requantize: see
    `plan.plan_tensors`; without it tensors of few bits stay as they are."""

    n_bytes: int
    request: MixRequest
    allow_requantize: bool


def types_under(
    target: TargetSize,
    file: GGUFFile,
    metadata: Sequence[tuple[str, MetadataValue]],
    importance: Importance,
    n_workers: int,
    reporter: Reporter,
) -> dict[str, ChosenType]:
    """The type of each tensor.

    Args:
        target: the size.
        file: the source.
        metadata: of the output; its size counts.
        importance: what errors are weighed by.
        n_workers: threads.
        reporter: hears of the progress.

    Raises:
        ConfigError: even the smallest types take more; it names the smallest possible size.
    """
    fixed = _stated(file, target.request)
    free = [PlannedTensor(info, info.type_name) for name, info in file.tensors.items() if name not in fixed]
    kinds = [_candidates(one.info, allow_requantize=target.allow_requantize) for one in free]
    frame = _frame(file, fixed, metadata)
    sizes = [_sizes(one.info, types, frame.alignment) for one, types in zip(free, kinds, strict=True)]
    budget = target.n_bytes - frame.n_bytes
    least = sum(min(one) for one in sizes)
    if least > budget:
        raise _too_small(target, frame.n_bytes + least)

    choices = _measured(free, kinds, sizes, file, importance, n_workers, reporter)
    chosen = dict(zip((one.name for one in free), allocate(choices, budget), strict=True))
    return {name: fixed.get(name) or ChosenType(chosen[name].type_name) for name in file.tensors}


def _measured(
    free: Sequence[PlannedTensor],
    kinds: Sequence[Sequence[str]],
    sizes: Sequence[Sequence[int]],
    file: GGUFFile,
    importance: Importance,
    n_workers: int,
    reporter: Reporter,
) -> list[list[Candidate]]:
    """The candidates of each tensor with their errors, each weighed by the tensor's share of the model."""

    def watch(done: int) -> None:
        reporter.emit(Progress(_TASK, done, len(free)))

    encoded = {kind for one, types in zip(free, kinds, strict=True) for kind in types if kind != one.info.type_name}
    load_codecs({one.info.type_name for one in free}, encoded, reporter, measures=True)
    with RowSource(file) as source:
        errors = measure_sensitivity(free, kinds, source, importance, n_workers, watch)
    return [
        [Candidate(kind, size, found[kind] * one.info.n_values) for kind, size in zip(types, row, strict=True)]
        for one, types, row, found in zip(free, kinds, sizes, errors, strict=True)
    ]


def main_file_type(tensors: Mapping[str, TensorInfo], chosen: Mapping[str, ChosenType]) -> FileType | None:
    """The kind of file that most of the weights are of."""
    values: dict[str, int] = {}
    for name, one in chosen.items():
        values[one.type_name] = values.get(one.type_name, 0) + tensors[name].n_values
    return _FILE_TYPES.get(max(values, key=lambda name: (values[name], name)))


def _stated(file: GGUFFile, request: MixRequest) -> dict[str, ChosenType]:
    """The types that are not to be chosen: those of tensors that are no matrices, and those that the request names."""
    kept = {
        name: ChosenType(info.type_name)
        for name, info in file.tensors.items()
        if not quantizes(name, tuple(info.shape))
    }
    return {**kept, **stated_types(shapes_and_types(file), request)}


def _candidates(info: TensorInfo, *, allow_requantize: bool) -> list[str]:
    return [info.type_name] if is_few_bits(info.type_name) and not allow_requantize else candidate_types(info)


@dataclass(frozen=True)
class _Frame:
    """What has its size whatever is chosen: header, padding and fixed tensors."""

    n_bytes: int
    alignment: int


def _frame(file: GGUFFile, fixed: Mapping[str, ChosenType], metadata: Sequence[tuple[str, MetadataValue]]) -> _Frame:
    specs = [
        (name, tuple(info.shape), fixed[name].type_name if name in fixed else info.type_name)
        for name, info in file.tensors.items()
    ]
    layout = lay_out(metadata, specs, file.paths[0])
    data = sum(aligned(info.n_bytes, layout.alignment) for info in layout.tensors if info.name in fixed)
    return _Frame(layout.data_start + data, layout.alignment)


def _sizes(info: TensorInfo, types: Sequence[str], alignment: int) -> list[int]:
    """Bytes of a tensor in each of the types, with the padding after it."""
    shape = tuple(info.shape)
    return [aligned(tensor_bytes(shape, TYPE_BY_NAME[type_name]), alignment) for type_name in types]


def _too_small(target: TargetSize, least: int) -> ConfigError:
    more = "" if target.allow_requantize else "; tensors that have few bits already stay without --allow-requantize"
    return ConfigError(
        f"{target.n_bytes} bytes are too few: the smallest possible file has {least}",
        where="quantize.target_size",
        hint=f"set it to {least} or more{more}",
    )
