"""A finished run with a head: its files checked, and the model put together as it was trained.

That is the base with the adapter of the run, or the model of the run where training changed all of it or the base is
gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from entrenar_core.backend.base import Backend
from entrenar_core.config.load import load_config
from entrenar_core.config.root import Config
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import attach_adapter, read_adapter
from entrenar_core.model.head_file import HEAD_FILE, load_head, read_head_spec
from entrenar_core.model.heads import HeadSpec, SequenceModel
from entrenar_core.model.load import load_model
from entrenar_core.stages.output_dir import ADAPTER, MODEL, RESOLVED
from entrenar_core.stages.packing import held_types


@dataclass(frozen=True)
class HeadRun:
    """The files of a run, and how it was trained. `adapter` is None if `model` has it all."""

    folder: Path
    config: Config
    head: HeadSpec
    model: Path
    adapter: Path | None

    @property
    def files(self) -> list[Path]:
        """What is read; it must not be written over."""
        found = (self.model, self.adapter, self.folder / HEAD_FILE, self.folder / RESOLVED)
        return [file for file in found if file is not None]

    def load(self, file: GGUFFile, backend: Backend) -> SequenceModel:
        """The model on a backend.

        Args:
            file: `model`, opened.
            backend: where it will compute.

        Raises:
            FormatError, ModelError: model, adapter and head do not belong together, or cannot be read.
        """
        if self.adapter is None:
            return load_head(self.folder / HEAD_FILE, load_model(file, backend))
        backbone = load_model(file, backend, held_as=held_types(self.config, file))
        attach_adapter(backbone, read_adapter(self.adapter, backbone.spec.architecture), str(self.adapter))
        return load_head(self.folder / HEAD_FILE, backbone)


def open_head_run(folder: Path, base: Path | None = None) -> HeadRun:
    """Look at the folder of a run; no tensor is read.

    Args:
        folder: the `training.output_dir` of the run.
        base: where the base model is now; None: where the config says.

    Raises:
        FormatError: a file is missing, or the head cannot be read.
        ConfigError: the config of the run cannot be read.
    """
    if not folder.is_dir():
        raise FormatError("there is no folder of this name", where=str(folder), hint="give the output folder of a run")
    for name in (HEAD_FILE, RESOLVED):
        if not (folder / name).is_file():
            raise FormatError(
                f"there is no {name} in this folder",
                where=str(folder),
                hint="predict needs a finished run with data.task: classification or regression",
            )
    config, head = load_config(folder / RESOLVED), read_head_spec(folder / HEAD_FILE)
    if (folder / ADAPTER).is_file() and not _is_one_with_its_base(config):
        found = _base_of(folder, config, base)
        if found is not None:
            return HeadRun(folder, config, head, found, folder / ADAPTER)
    elif base is not None:
        raise FormatError(
            "the run has no adapter that could go to another model", where=str(folder), hint="leave out --model"
        )
    if not (folder / MODEL).is_file():
        raise FormatError(f"there is neither {MODEL} nor {ADAPTER} in this folder", where=str(folder))
    return HeadRun(folder, config, head, folder / MODEL, None)


def _is_one_with_its_base(config: Config) -> bool:
    """Whether the adapter is no model without being rounded together with its base: only model.gguf is, then."""
    return config.quantize is not None and config.quantize.stage == "qat"


def _base_of(folder: Path, config: Config, base: Path | None) -> Path | None:
    """The base model of an adapter; None where it is gone, but the run has a model with the adapter in it."""
    path = base or Path(config.model.path or "")
    if path.is_file():
        return path
    if base is None and (folder / MODEL).is_file():
        return None
    raise FormatError(
        "the base model of the run is not there", where=str(path), hint="say where it is now with --model"
    )
