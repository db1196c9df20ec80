"""Which matrices of a frozen base are held in blocks of few bits, and in which; and what is said of that.

A matrix that is in blocks in the file stays in them, whatever their type: it is used where it lies. With
`quantize.stage: base` the others are packed too, in the types that the mix has for them. What has few bits already is
not quantized again for that, unless `quantize.allow_requantize` asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.codecs.registry import ENCODABLE
from entrenar_core.config.quantize import Quantize
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.model.packed import is_block_matrix, is_in_blocks, own_blocks
from entrenar_core.quant.mixes import choose_types, quantizes
from entrenar_core.quant.plan import model_facts, shapes_and_types
from entrenar_core.stages.mix_request import mix_request
from entrenar_core.stages.output_types import counted
from entrenar_core.stages.qat import keeps_own_types


def held_types(config: Config, file: GGUFFile) -> dict[str, str]:
    """The block type of each matrix that is held in one, by name; empty where weights are trained themselves.

    Raises:
        ConfigError: the section is wrong for this model, or no matrix of it fits the blocks that are asked for.
    """
    if config.lora is None:
        return {}
    section = config.quantize
    if section is None or section.stage != "base":
        return own_blocks(file.tensors)
    return _packed_on_load(section, file)


def _packed_on_load(section: Quantize, file: GGUFFile) -> dict[str, str]:
    chosen = choose_types(shapes_and_types(file), mix_request(section, model_facts(file.metadata)))
    held = own_blocks(file.tensors)
    for name, info in file.tensors.items():
        wanted = chosen[name].type_name
        may_change = name not in held or section.allow_requantize
        if len(info.shape) == 2 and quantizes(name, info.shape) and may_change and is_few_bits(wanted):
            held[name] = wanted
    _check(held, section, file)
    return held


def _check(held: Mapping[str, str], section: Quantize, file: GGUFFile) -> None:
    made = {type_name for name, type_name in held.items() if file.tensors[name].type_name != type_name}
    if unknown := sorted(made - ENCODABLE):
        raise ConfigError(
            f"{', '.join(unknown)} can be read but not written",
            where="quantize.type",
            hint=f"types that can be written: {', '.join(sorted(ENCODABLE))}",
        )
    if not any(is_block_matrix(file.tensors[name]) for name in held):
        raise ConfigError(
            f"no matrix of {file.paths[0]} has rows of whole {section.mix} blocks",
            where="quantize",
            hint="remove the quantize section",
        )


def say_how_it_is_held(config: Config, file: GGUFFile, held: Mapping[str, str], reporter: Reporter) -> None:
    """Report what is not as the `quantize` section has it: matrices that stay dense, stay as they are, or are quantized
    a second time."""
    section = config.quantize
    if section is None or section.stage != "base" or config.lora is None:
        return
    tensors = file.tensors
    if dense := dense_matrices(tensors.values(), held):
        message = f"{len(dense)} matrices stay in float32: their rows do not divide into {section.mix} blocks"
        reporter.emit(Notice("info", f"{message} ({dense[0].name} has rows of {dense[0].shape[1]})"))
    kept, twice = _fate_of_blocks(tensors, held)
    if kept:
        message = f"matrices that are in blocks already stay as they are: {counted(kept)}"
        reporter.emit(Notice("info", message))
    if twice:
        message = f"matrices of few bits are quantized again, which loses quality: {counted(twice)}"
        reporter.emit(Notice("warning", f"{message}; a base in F16 or F32 loses less"))


def say_how_it_is_written(config: Config, file: GGUFFile, held: Mapping[str, str], reporter: Reporter) -> None:
    """Report that a base is only held in the blocks of the `quantize` section: the written model has its own types."""
    own = {name: one.type_name for name, one in file.tensors.items() if held.get(name, one.type_name) != one.type_name}
    if own and config.quantize is not None and keeps_own_types(config):
        message = f"the base is held in {described_types(held)} while training; model.gguf is written in"
        remedy = f"output.type: {config.quantize.mix} would write it in few bits"
        reporter.emit(Notice("info", f"{message} {described_types(own)}, as the base file is: {remedy}"))


def _fate_of_blocks(tensors: Mapping[str, TensorInfo], held: Mapping[str, str]) -> tuple[Counter[str], Counter[str]]:
    """The matrices that are in blocks in the file, by type: those that stay in them, and the others."""
    in_blocks = {name: info.type_name for name, info in tensors.items() if is_in_blocks(info)}
    kept = Counter(kind for name, kind in in_blocks.items() if held[name] == kind)
    return kept, Counter(in_blocks.values()) - kept


def dense_matrices(tensors: Iterable[TensorInfo], held: Mapping[str, str]) -> list[TensorInfo]:
    """The matrices of layers that are not held in blocks."""
    return [info for info in tensors if is_block_matrix(info) and info.name not in held]


def described_types(held: Mapping[str, str]) -> str:
    """The types of held matrices in words, the most frequent first: ``Q4_K and Q6_K``."""
    names = [name for name, _ in sorted(Counter(held.values()).items(), key=lambda pair: (-pair[1], pair[0]))]
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
