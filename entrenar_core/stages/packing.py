"""What is said before a base is held in few bits: matrices that cannot be, and those that are quantized twice."""

from __future__ import annotations

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import dense_matrices
from entrenar_core.model.packed import is_packable


def check_packing(file: GGUFFile, type_name: str, reporter: Reporter) -> None:
    """Report what a base in blocks of `type_name` will be like.

    Raises:
        ConfigError: no matrix of the model can be held in such blocks.
    """
    packable = [info for info in file.tensors.values() if is_packable(info, type_name)]
    if not packable:
        size = TYPE_BY_NAME[type_name].block_size
        raise ConfigError(
            f"no matrix of {file.paths[0]} has rows of whole {type_name} blocks ({size} values)",
            where="quantize",
            hint="remove the quantize section",
        )
    if dense := dense_matrices(file, type_name):
        message = f"{len(dense)} matrices stay in float32: their rows do not divide into {type_name} blocks"
        reporter.emit(Notice("info", f"{message} ({dense[0]} has rows of {file.tensors[dense[0]].shape[1]})"))
    twice = {info.type_name for info in packable if _is_blocks(info.type_name) and info.type_name != type_name}
    if twice:
        count = sum(info.type_name in twice for info in packable)
        names = ", ".join(sorted(twice))
        message = f"{count} matrices are {names} in the file and are quantized again, to {type_name}"
        reporter.emit(Notice("warning", f"{message}; a base in F16 or F32 loses less"))


def _is_blocks(type_name: str) -> bool:
    return TYPE_BY_NAME[type_name].block_size > 1
