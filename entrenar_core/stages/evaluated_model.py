"""What `entrenar eval` looks at: a GGUF model of any type, maybe with an adapter, or what a run has left in its folder.

Of a run's folder that is model.gguf, else the base model with the run's adapter, or either of them with the head that
the run has trained. Matrices are used where they lie in their mapped file, whatever their type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.backend.base import Backend
from entrenar_core.config.load import load_config
from entrenar_core.config.root import Config
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import attach_adapter, read_adapter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.head_file import HEAD_FILE
from entrenar_core.model.load import load_mapped, load_model, read_spec
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.head_run import HeadRun, open_head_run
from entrenar_core.stages.inspect_run import is_checkpoint
from entrenar_core.stages.output_dir import ADAPTER, MODEL, RESOLVED
from entrenar_core.stages.packing import held_types
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer

_FOLDER_HINT = f"give a GGUF file, or the folder of a finished run with {MODEL} or {ADAPTER}"


@dataclass(frozen=True)
class ModelFacts:
    """A model in a table. `n_bytes` are those of all its files; `bits_per_weight` those of its tensors, without an
    adapter's; `types` counts its tensors by GGML type."""

    path: str
    files: tuple[str, ...]
    architecture: str
    parameters: int
    n_bytes: int
    bits_per_weight: float
    types: Mapping[str, int]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is known but not loaded.

    name: as it was given. trained: the config of the run that it came from. head: its head, which it then answers with.
    """

    name: str
    file: GGUFFile
    spec: DecoderSpec
    tokenizer: Tokenizer
    folder: Path | None = None
    trained: Config | None = None
    adapter: Path | None = None
    head: HeadRun | None = None

    @property
    def files(self) -> list[Path]:
        """What is read; it must not be written over."""
        others = [self.adapter] if self.head is None else self.head.files
        return list(dict.fromkeys([*self.file.paths, *(one for one in others if one is not None)]))

    def load(self, backend: Backend) -> LanguageModel:
        """The language model on a backend, frozen; its file stays open for as long as it is used.

        Raises:
            FormatError, ModelError: a tensor cannot be decoded, or the adapter does not fit.
        """
        if self.adapter is None:
            return load_mapped(self.file, backend)
        model = self._base(backend)
        attach_adapter(model, read_adapter(self.adapter, self.spec.architecture), str(self.adapter))
        model.freeze()
        return model

    def facts(self) -> ModelFacts:
        """Sizes and types."""
        tensors = self.file.tensors.values()
        parameters = sum(info.n_values for info in tensors)
        return ModelFacts(
            path=self.name,
            files=tuple(map(str, self.files)),
            architecture=self.spec.architecture,
            parameters=parameters,
            n_bytes=sum(path.stat().st_size for path in self.files if path.suffix == ".gguf"),
            bits_per_weight=8 * sum(info.n_bytes for info in tensors) / parameters,
            types=dict(Counter(info.type_name for info in tensors).most_common()),
        )

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def _base(self, backend: Backend) -> LanguageModel:
        """The base of an adapter, in the blocks that it was trained with."""
        quantize = None if self.trained is None else self.trained.quantize
        if self.trained is None or quantize is None or quantize.stage != "base":
            return load_mapped(self.file, backend)
        return load_model(self.file, backend, held_as=held_types(self.trained, self.file))


def open_evaluated(path: Path, *, adapter: Path | None = None, base: Path | None = None) -> EvaluatedModel:
    """Look at a model; no tensor is read.

    Args:
        path: a GGUF file or the folder of a run.
        adapter: a GGUF LoRA adapter for the model of a file.
        base: where the base model of a run's adapter is now; None: where its config says.

    Raises:
        FormatError: there is no model, or a file is damaged.
        ModelError: an architecture that is not known, or tensors that do not fit.
        TokenizerError: the model has no tokenizer that can be used.
        ConfigError: the config of the run cannot be read.
    """
    if path.is_dir():
        return _open_folder(path, adapter, base)
    if base is not None:
        raise FormatError("a base model is for the adapter of a run", where=str(path), hint="leave out --base")
    return _opened(str(path), path, adapter=adapter)


@contextmanager
def opened_models(
    paths: Sequence[Path], *, adapter: Path | None = None, base: Path | None = None
) -> Iterator[list[EvaluatedModel]]:
    """`open_evaluated` for several models, which are closed at the end."""
    models: list[EvaluatedModel] = []
    try:
        for path in paths:
            models.append(open_evaluated(path, adapter=adapter, base=base))
        yield models
    finally:
        for model in models:
            model.close()


def _open_folder(folder: Path, adapter: Path | None, base: Path | None) -> EvaluatedModel:
    if is_checkpoint(folder):
        hint = f"give the folder of its run: {folder.resolve().parent.parent}"
        raise FormatError("a checkpoint is no model yet", where=str(folder), hint=hint)
    if adapter is not None:
        hint = "leave out --adapter, or give the base model's file as MODEL"
        raise FormatError("the folder of a run says itself which adapter it has", where=str(folder), hint=hint)
    if (folder / HEAD_FILE).is_file():
        head = open_head_run(folder, base)
        return _opened(str(folder), head.model, folder=folder, trained=head.config, head=head)
    trained = load_config(folder / RESOLVED) if (folder / RESOLVED).is_file() else None
    if (folder / MODEL).is_file() and base is None:
        return _opened(str(folder), folder / MODEL, folder=folder, trained=trained)
    if (folder / ADAPTER).is_file():
        file = _base_of(folder, trained, base)
        return _opened(str(folder), file, folder=folder, trained=trained, adapter=folder / ADAPTER)
    raise FormatError("there is no model in this folder", where=str(folder), hint=_FOLDER_HINT)


def _base_of(folder: Path, trained: Config | None, base: Path | None) -> Path:
    """The base model of a run's adapter."""
    named = base or (Path(trained.model.path) if trained is not None and trained.model.path else None)
    if named is not None and named.is_file():
        return named
    message = "the base model of the adapter is not known" if named is None else "the base model is not there"
    raise FormatError(message, where=str(named or folder), hint="say where it is now with --base")


def _opened(
    name: str,
    path: Path,
    *,
    folder: Path | None = None,
    trained: Config | None = None,
    adapter: Path | None = None,
    head: HeadRun | None = None,
) -> EvaluatedModel:
    file = GGUFFile.open(path)
    try:
        if file.metadata.get("general.type") == "adapter":
            hint = f"give its base model: entrenar eval BASE.gguf --adapter {path}"
            raise FormatError("this is an adapter, which is no model by itself", where=str(path), hint=hint)
        spec = read_spec(file)
        tokenizer = tokenizer_from_metadata(file.metadata, str(path))
        return EvaluatedModel(name, file, spec, tokenizer, folder, trained, adapter, head)
    except BaseException:
        file.close()
        raise
