"""How much a model has to compute that reads the texts of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from entrenar_core.backend.gpu_worth import Work
from entrenar_core.data.files import find_files
from entrenar_core.data.plain_text import is_plain_text
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.device import model_sizes, total_size

BYTES_A_TOKEN = 4
"""Of text in a file, about."""


def reading_work(file: GGUFFile, data: str, at_most: int | None = None) -> Work:
    """Of a model that reads the texts at a path, and no more than `at_most` tokens of them."""
    files = [Path(data).expanduser()] if is_plain_text(data) else find_files(data).files
    tokens = total_size(files) // BYTES_A_TOKEN
    work = Work("evaluate", *model_sizes(file), tokens)
    return work if at_most is None else replace(work, tokens=min(tokens, at_most))
