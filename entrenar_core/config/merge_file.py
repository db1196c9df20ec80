"""The configuration of `entrenar merge`: from a YAML file of its own, from one of mergekit, from options, or from both.

Options lie over the file, as ``--set`` does for `train`, and messages about them name the option.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from entrenar_core.config.base import AnyCase, Conflict, KeyPath, Section, UserPath, dotted
from entrenar_core.config.compose import read_composed
from entrenar_core.config.kinds import is_mergekit, refuse_other_files_than_merges
from entrenar_core.config.load import checked_section
from entrenar_core.config.merge_conflicts import merge_conflicts
from entrenar_core.config.merge_methods import METHODS, MethodFacts, MethodName
from entrenar_core.config.merge_models import Base, ModelFiles, Models, Slices, split_reference
from entrenar_core.config.merge_options import set_merge_options
from entrenar_core.config.merge_parameters import ModelParameters, TensorParameters
from entrenar_core.config.mergekit import Translated, translated
from entrenar_core.config.moved_places import as_written
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.quantize import FLOATS, MixName, named_mix
from entrenar_core.config.quantize_file import Option, Running
from entrenar_core.config.yaml_places import Order, Source

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.gguf)")


class JoinedModels(Section):
    """Which models are joined, and by which method."""

    method: Annotated[MethodName, AnyCase] = Field(description="how the models are joined")
    base: Base = Field(
        default=None,
        description="the model that the others came from (a path, or {path, adapter}); slerp, nearswap: the one at "
        "t = 0; it also gives the tokenizer and the metadata, otherwise the first model does",
    )
    models: Models = Field(
        default=None, description="the models: paths, or mappings with parameters; path+adapter is a model with a LoRA"
    )
    slices: Slices = Field(default=None, description="layers of the result, one slice after another, instead of models")


class Merging(TensorParameters, JoinedModels):
    """Which models are joined, and how. Parameters here are for all models that have none of their own."""

    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="dare, della: what is dropped at random follows from it; default: 0"
    )
    tokenizer: Annotated[Literal["union", "base"] | None, AnyCase] = Field(
        default=None,
        description="for models with different tokens: all tokens, or those of the base; default: they must be equal",
    )

    @property
    def facts(self) -> MethodFacts:
        return METHODS[self.method]

    def levels(self) -> Iterator[tuple[KeyPath, ModelParameters]]:
        """Every section that has parameters, with its place."""
        yield ("merge",), self
        yield from ((("merge", "models", index), one) for index, one in enumerate(self.models or ()))
        for number, part in enumerate(self.slices or ()):
            place = ("merge", "slices", number)
            yield place, part
            yield from (((*place, "sources", index), one) for index, one in enumerate(part.sources))

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from merge_conflicts(given)


class MergedFile(Section):
    """What is written."""

    path: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="the GGUF file (or folder) to write; only a dry run can do without"
    )
    type: Annotated[MixName | None, BeforeValidator(named_mix)] = Field(
        default=None,
        description="a type or mix as in quantize.type; default: as the base (or first model) has each tensor",
    )
    format: Annotated[Literal["gguf", "safetensors"], AnyCase] = Field(
        default="gguf", description="safetensors: a Hugging Face folder, for llama, qwen2 and qwen3"
    )
    task_vector: bool = Field(default=False, description="write the change against the base instead of the model")
    report: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="a JSON file for what became of each tensor"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        kind, form = named_mix(given.get("type")), str(given.get("format")).lower()
        if form == "safetensors" and kind is not None and kind not in FLOATS:
            yield Conflict("type", f"{kind} is a type of GGUF, and the format is safetensors", "set type: f16 or bf16")


class MergeConfig(Section):
    """Several models in, one out."""

    version: Literal[1] = Field(default=1, description="version of this format")
    merge: Merging = Field(description="which models are joined, and how")
    output: MergedFile = Field(default_factory=MergedFile, description="what is written")
    run: Running = Field(default_factory=Running, description="how much of the machine is used")

    _notices: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notices(self) -> tuple[str, ...]:
        """What a file of mergekit says that has no effect here."""
        return self._notices

    @property
    def files(self) -> tuple[ModelFiles, ...]:
        """The models to open, each once: the base first, then the others as they are named."""
        named = [self.merge.base] if self.merge.base is not None else []
        entries = [*(self.merge.models or ()), *(one for part in self.merge.slices or () for one in part.sources)]
        found: dict[tuple[str, str | None], ModelFiles] = {}
        for one in [*named, *entries]:
            found.setdefault(one.key, one.files)
        return tuple(found.values())

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        merge, output = (_plain(given.get(name)) for name in ("merge", "output"))
        if output.get("task_vector") is True:
            if merge.get("base") is None:
                yield Conflict("output.task_vector", "needs merge.base, which is subtracted", "set merge.base")
            if merge.get("slices") is not None:
                yield Conflict(
                    "output.task_vector", "needs the layers of the base, and slices have others", "use models"
                )


def _plain(section: object) -> Mapping[str, Any]:
    return section if isinstance(section, Mapping) else dict(section) if isinstance(section, Section) else {}


def merge_config(file: FilePath | None, options: Sequence[Option]) -> MergeConfig:
    """The configuration of one call of the command.

    Args:
        file: a YAML file, ours or one of mergekit, if one was given.
        options: what was given on the command line, unset ones left out; see `merge_options`.

    Raises:
        ConfigError: the file cannot be read, or is for another command.
        ConfigProblems: everything that is wrong.
    """
    known = _read(file)
    source = known.source
    wrong = [*known.problems, *set_merge_options(source, options), *_names_of_the_hub(source)]
    try:
        config = checked_section(source, MergeConfig, wrong)
    except ConfigProblems as error:
        raise ConfigProblems([as_written(one, known.names) for one in error.problems]) from error
    config._notices = known.notices
    return config


def _read(file: FilePath | None) -> Translated:
    if file is None:
        return Translated(Source("the command line", {}))
    source = read_composed(file, needs=("merge", "output"))
    refuse_other_files_than_merges(source.data, str(file))
    return translated(source) if is_mergekit(source.data) else Translated(source)


def _names_of_the_hub(source: Source) -> Iterator[tuple[Order, Problem]]:
    """Models that are named as Hugging Face's hub does, where there is not even a folder of their first part."""
    for key, path in _paths(source.data.get("merge")):
        if isinstance(path, str) and _HUB_NAME.fullmatch(path) and not os.path.exists(os.path.dirname(path)):
            place = source.place(("merge", *key), of_value=True)
            message = f"value {json.dumps(path)}; there is no such folder, and nothing is downloaded"
            hint = f"hf download {path} --local-dir {path}"
            yield place.order, Problem(place.where, dotted(("merge", *key)), message, hint)


def _paths(merge: object) -> Iterator[tuple[KeyPath, object]]:
    """Every path of a model or an adapter, as far as the section has its form."""
    section = merge if isinstance(merge, Mapping) else {}
    models: list[tuple[KeyPath, object]] = [(("base",), section.get("base"))]
    models += _numbered("models", section.get("models"))
    for place, part in _numbered("slices", section.get("slices")):
        models += [((*place, *key), one) for key, one in _numbered("sources", _plain(part).get("sources"))]
    for place, model in models:
        if isinstance(model, str):
            yield from ((place, path) for path in split_reference(model).values())
        yield from (((*place, key), _plain(model).get(key)) for key in ("path", "adapter"))


def _numbered(key: str, entries: object) -> list[tuple[KeyPath, object]]:
    return [((key, index), one) for index, one in enumerate(entries)] if isinstance(entries, (list, tuple)) else []
