"""What a run starts from: a GGUF file, or an architecture with random weights and maybe a new tokenizer.

Opening checks everything that can be checked without reading weights or data: architecture, tensors, tokenizer, and
that LoRA targets exist. `build` then makes the model on a backend.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from entrenar_core.backend.base import Backend
from entrenar_core.config.distill import Distill
from entrenar_core.config.model import Architecture
from entrenar_core.config.root import Config
from entrenar_core.config.student import Student
from entrenar_core.data.texts import iterate_texts
from entrenar_core.distill.student import StudentPlan, plan_student
from entrenar_core.errors import ConfigError, EntrenarError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.keys import GENERAL_NAME
from entrenar_core.gguf.names import ROPE_FREQS, module_to_gguf
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import random_model, spec_metadata
from entrenar_core.model.load import Shape, expected_shapes, load_model, read_rope_factors, read_spec
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.stages.merge_result import MergePlan, open_merge
from entrenar_core.stages.packing import held_types, say_how_it_is_held, say_how_it_is_written
from entrenar_core.stages.qat import check_layers
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.tokenizer import Tokenizer
from entrenar_core.tokenizer.train import train_bpe

Entries = Sequence[tuple[str, MetadataValue]]


@dataclass(frozen=True)
class BaseModel:
    """A model that is known but not loaded.

    name: for messages. file: None for a new model. metadata: every GGUF key of the result. merge: the models that the
    trained one is joined with, if the config has a merge section. held_as: the block types in which frozen matrices
    are held, by name. student: of a new model that is made from a teacher.
    """

    name: str
    spec: DecoderSpec
    tokenizer: Tokenizer
    metadata: Entries
    file: GGUFFile | None
    merge: MergePlan | None = None
    held_as: Mapping[str, str] = field(default_factory=dict)
    student: StudentPlan | None = None

    @property
    def teacher(self) -> GGUFFile | None:
        """The file that a student is made from; None for other models."""
        return None if self.student is None else self.student.teacher

    def build(self, config: Config, backend: Backend) -> LanguageModel:
        """The model on a backend, with the adapters and the packed base that the config asks for; a student is built by
        `build_model`."""
        checkpointing = config.training.activation_checkpointing
        if self.file is None:
            return random_model(self.spec, backend, config.training.seed, checkpoint_activations=checkpointing)
        trainable = config.lora is None
        model = load_model(
            self.file,
            backend,
            trainable=trainable,
            checkpoint_activations=checkpointing,
            held_as=self.held_as,
        )
        if config.lora is not None:
            inject_lora(model, lora_settings(config), config.training.seed)
        return model

    def digest(self) -> str:
        """Hex SHA-256 of the content of the base file or of a student's teacher, or of the new model's metadata."""
        file = self.file or self.teacher
        if file is None:
            return hashlib.sha256(repr([(key, value.value) for key, value in self.metadata]).encode()).hexdigest()
        return file_digest(file)

    def digests(self) -> dict[str, str]:
        """What the result depends on besides data and config, by name: the base and the models it is merged with."""
        others = () if self.merge is None else self.merge.others
        merged = {f"merge.models.{index}": file_digest(other.file) for index, other in enumerate(others)}
        return {"model": self.digest(), **merged}

    def n_parameters(self) -> int:
        """Weights of the model, those of adapters and heads left out."""
        return sum(math.prod(shape) for name, shape in self.shapes().items() if name != ROPE_FREQS)

    def shapes(self) -> Mapping[str, Shape]:
        """Name and shape, in numpy order, of every tensor of the written model, in its order."""
        if self.file is not None:
            return {name: tuple(info.shape) for name, info in self.file.tensors.items()}
        return expected_shapes(self.spec) if self.student is None else self.student.shapes()

    def constants(self) -> Mapping[str, np.ndarray]:
        """Tensors of a new model's file that are no weights, with their values."""
        factors = None if self.teacher is None else read_rope_factors(self.teacher)
        return {} if factors is None else {ROPE_FREQS: factors}

    def tokenizer_digest(self) -> str:
        """Hex SHA-256 of every key that the tokenizer is made from."""
        content = hashlib.sha256()
        for key, value in sorted(self.metadata, key=lambda entry: entry[0]):
            if key.startswith("tokenizer."):
                content.update(f"{key}\0{value.type}\0".encode())
                plain = value.plain
                text = plain.tolist() if isinstance(plain, np.ndarray) else plain
                content.update(repr(text).encode("utf-8", "surrogatepass"))
        return content.hexdigest()

    def plain_metadata(self) -> Mapping[str, object]:
        """Every GGUF key with its value as Python or NumPy has it."""
        if self.file is not None:
            return self.file.metadata
        return {key: value.plain for key, value in self.metadata}

    def non_finite_tensors(self) -> list[str]:
        """The tensors of the base file or of a student's teacher that hold a NaN or an infinity: what to look at when a
        loss is not finite."""
        file = self.file or self.teacher
        return [] if file is None else [name for name in file.tensors if not np.isfinite(file.load(name)).all()]

    def close(self) -> None:
        """Let go of the files."""
        for file in (self.file, self.teacher):
            if file is not None:
                file.close()
        if self.merge is not None:
            self.merge.close()


def file_digest(file: GGUFFile) -> str:
    """Hex SHA-256 of a model file's content, all shards in order."""
    content = hashlib.sha256()
    for path in file.paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: content)
    return content.hexdigest()


def lora_settings(config: Config) -> LoRASettings:
    """The `lora` section as the injector wants it."""
    lora = config.lora
    if lora is None:
        raise ConfigError("there is no lora section")
    return LoRASettings(lora.rank, lora.alpha, lora.dropout, lora.target_modules, lora.rslora)


def open_base(config: Config, reporter: Reporter) -> BaseModel:
    """Open and check what a config starts from.

    Raises:
        FormatError, ModelError, TokenizerError, ConfigError: it cannot be used.
        DataError: a tokenizer is to be trained on data that cannot be read.
    """
    _check_targets(config)
    check_layers(config)
    if config.distill is not None and config.distill.student is not None:
        return _student_base(config.distill, config.distill.student, reporter)
    if config.model.architecture is not None:
        return _new_base(config, config.model.architecture, reporter)
    file = GGUFFile.open(str(config.model.path))
    try:
        base = replace(_base_of(file), held_as=held_types(config, file))
        say_how_it_is_held(config, file, base.held_as, reporter)
        say_how_it_is_written(config, file, base.held_as, reporter)
        if config.merge is None:
            return base
        return replace(base, merge=open_merge(config.merge, file, reporter))
    except EntrenarError:
        file.close()
        raise


def _base_of(file: GGUFFile) -> BaseModel:
    path = file.paths[0]
    spec = read_spec(file)
    tokenizer = tokenizer_from_metadata(file.metadata, str(path))
    _check_vocabulary(tokenizer, spec.vocab_size, str(path))
    return BaseModel(path.name, spec, tokenizer, file.metadata_entries(), file)


def _student_base(section: Distill, shape: Student, reporter: Reporter) -> BaseModel:
    """A new model that is made from the first teacher, with its tokenizer."""
    file = GGUFFile.open(section.all_teachers[0].path)
    try:
        plan = plan_student(shape, file)
        path = str(file.paths[0])
        tokenizer = tokenizer_from_metadata(file.metadata, path)
        _check_vocabulary(tokenizer, plan.spec.vocab_size, path)
    except EntrenarError:
        file.close()
        raise
    if plan.needs_activity:
        message = "what is left out of the teacher is what matters least for the first rows of the training data"
        reporter.emit(Notice("info", message))
    name = f"{file.metadata.get(GENERAL_NAME) or file.paths[0].stem} {plan.spec.num_layers}x{plan.spec.hidden_size}"
    return BaseModel(name, plan.spec, tokenizer, plan.metadata(name), None, student=plan)


def _check_targets(config: Config) -> None:
    """Wrong names are found before anything is read; whether the model has such layers is found when it is built."""
    if config.lora is None:
        return
    if config.model.architecture is not None:
        raise ConfigError(
            "lora needs a model to adapt, and model.architecture starts from random weights",
            hint="remove the lora section to train the new model, or set model.path",
        )
    if not isinstance(config.lora.target_modules, str):
        for target in config.lora.target_modules:
            try:
                module_to_gguf(target)
            except ConfigError as error:
                raise ConfigError(error.message, where="lora.target_modules", hint=error.hint) from error


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int, source: str) -> None:
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding only {vocab_size} rows", where=source
        )


def _new_base(config: Config, shape: Architecture, reporter: Reporter) -> BaseModel:
    source = config.model.tokenizer
    if source is None:
        entries = train_bpe(iterate_texts(config.data), shape.vocab_size)
        where = config.data.train[0].path
    else:
        with GGUFFile.open(source) as file:
            entries = [(key, value) for key, value in file.metadata_entries() if key.startswith("tokenizer.")]
        where = source
    tokenizer = tokenizer_from_metadata({key: value.plain for key, value in entries}, where)
    vocab_size = tokenizer.vocab_size if source is None else shape.vocab_size
    _check_vocabulary(tokenizer, vocab_size, where)
    if source is None and vocab_size < shape.vocab_size:
        reporter.emit(Notice("info", f"the data gives a vocabulary of {vocab_size} tokens, not {shape.vocab_size}"))
    spec = DecoderSpec(
        traits=traits_of(shape.type, "model.architecture.type"),
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=vocab_size,
        context_length=shape.context_length,
        norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        rope_dimensions=shape.head_dim,
        tie_embeddings=shape.tie_embeddings,
    )
    name = f"{shape.type} {shape.num_layers}x{shape.hidden_size}"
    return BaseModel(name, spec, tokenizer, [*spec_metadata(spec, name), *entries], None)
