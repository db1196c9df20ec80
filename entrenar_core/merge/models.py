"""Opens the inputs of a merge: a GGUF file, a Hugging Face folder, each with or without a LoRA adapter on top."""

from __future__ import annotations

import os
from pathlib import Path

from entrenar_core.errors import EntrenarError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.merge.gguf_model import GGUFModel
from entrenar_core.merge.model_tensors import ModelTensors

__all__ = ("ModelTensors", "open_model")


def open_model(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> ModelTensors:
    """Open a model, without reading its tensors.

    Args:
        path: a GGUF file (any shard of one in several files).
        adapter: a LoRA adapter to be put on top.

    Raises:
        FormatError: a file cannot be read, or is not what it seems.
        ModelError: it is no language model, or one that is not supported.
    """
    if adapter is not None:
        raise ModelError("adapters cannot be merged yet", where=str(adapter), hint="merge it into its model first")
    file = GGUFFile.open(Path(path))
    try:
        return GGUFModel(file)
    except EntrenarError:
        file.close()
        raise
