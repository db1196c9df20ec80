"""Opens the inputs of a merge: a GGUF file, a Hugging Face folder, each with or without a LoRA adapter on top."""

from __future__ import annotations

import os
from pathlib import Path

from entrenar_core.errors import EntrenarError, FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.adapter import TRAINED_ADAPTER
from entrenar_core.lora.peft_config import PEFT_CONFIG
from entrenar_core.merge.adapted_model import with_adapter
from entrenar_core.merge.gguf_model import GGUFModel, adapter_as_model
from entrenar_core.merge.hugging_face_model import CONFIG, HuggingFaceModel
from entrenar_core.merge.model_tensors import ModelTensors

__all__ = ("ModelTensors", "open_model")


def open_model(path: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> ModelTensors:
    """Open a model, without reading its tensors.

    Args:
        path: a GGUF file (any shard of one in several files), or a folder with config.json and safetensors.
        adapter: a LoRA adapter to be put on top.

    Raises:
        FormatError: a file cannot be read, or is not what it seems.
        ModelError: it is no language model, or one that is not supported.
        TokenizerError: GGUF has no name for its tokenizer.
    """
    base = _open_folder(Path(path)) if Path(path).is_dir() else _open_file(Path(path))
    if adapter is None:
        return base
    try:
        return with_adapter(base, Path(adapter))
    except EntrenarError:
        base.close()
        raise


def _open_file(path: Path) -> ModelTensors:
    if path.suffix == ".safetensors":
        raise FormatError("this is a part of a model", where=str(path), hint=f"give its folder: {path.parent}")
    file = GGUFFile.open(path)
    try:
        return GGUFModel(file)
    except EntrenarError:
        file.close()
        raise


def _open_folder(folder: Path) -> ModelTensors:
    if (folder / CONFIG).is_file():
        return HuggingFaceModel(folder)
    if (folder / PEFT_CONFIG).is_file():
        raise adapter_as_model(str(folder))
    files = sorted(folder.glob("*.gguf"), key=lambda file: (file.name == TRAINED_ADAPTER, file.name))
    hint = f"give the file itself: {files[0]}" if files else "a model folder has a config.json"
    raise FormatError(f"there is no {CONFIG}", where=str(folder), hint=hint)
