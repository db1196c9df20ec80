"""The configuration of `entrenar quantize`: from a YAML file of its own, from options, or from both.

Options lie over the file, as ``--set`` does for `train`, and messages about them name the option.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from entrenar_core.config.base import Conflict, Section, UserPath
from entrenar_core.config.compose import read_composed
from entrenar_core.config.kinds import refuse_training_files
from entrenar_core.config.load import checked_section
from entrenar_core.config.overrides import set_value, take_away
from entrenar_core.config.quantize import Calibration, Quantize
from entrenar_core.config.sizes import Size
from entrenar_core.config.yaml_places import Place, Source

_AFTER_THE_FILES = 10**9

_CHOICES = (("quantize", ("bits", "type", "target_size")), ("quantize", ("granularity", "per_channel")))
"""Keys that say one thing in different ways: an option for one of them takes the others of a file away."""


class SourceModel(Section):
    """The model that is quantized."""

    path: Annotated[str, UserPath] = Field(min_length=1, description="a GGUF file (any shard of a split one)")


class QuantizedFile(Section):
    """What is written."""

    path: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="the GGUF file to write; only a dry run can do without"
    )
    report: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="a JSON file for the errors of each tensor"
    )


class Running(Section):
    """How much of the machine is used."""

    memory: Size = Field(default=512 * 2**20, description="most private memory, such as 512MiB")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: one for each core")


class QuantizeConfig(Section):
    """One file in, one file out, in few bits."""

    version: Literal[1] = Field(default=1, description="version of this format")
    model: SourceModel = Field(description="the model that is quantized")
    quantize: Quantize = Field(description="the types it is written in")
    output: QuantizedFile = Field(default_factory=QuantizedFile, description="what is written")
    run: Running = Field(default_factory=Running, description="how much of the machine is used")

    @model_validator(mode="before")
    @classmethod
    def _writes_its_output(cls, raw: Any) -> Any:
        section = raw.get("quantize") if isinstance(raw, Mapping) else None
        if isinstance(section, Mapping) and section.get("stage") is None:
            return {**raw, "quantize": {**section, "stage": "output"}}
        return raw

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        section = given.get("quantize")
        raw = section if isinstance(section, Mapping) else section.__dict__ if isinstance(section, Quantize) else {}
        if raw.get("stage") not in (None, "output"):
            yield Conflict(
                "quantize.stage", "is for training; this command quantizes what it writes", "use entrenar train"
            )
        calibration = raw.get("calibration")
        if isinstance(calibration, Mapping) and not {"data", "imatrix"} & calibration.keys():
            yield Conflict(
                "quantize.calibration",
                "needs texts or an importance matrix",
                "set quantize.calibration.data or quantize.calibration.imatrix",
            )


class _Measured(Section):
    calibration: Calibration = Field(description="data, and how they are read")


class CalibrateConfig(Section):
    """What `entrenar calibrate` measures on, under the keys that `entrenar quantize` has for it."""

    quantize: _Measured = Field(description="what is measured")


@dataclass(frozen=True)
class Option:
    """A value from the command line: how the option is written, the key it sets, its value."""

    name: str
    key: tuple[str, ...]
    value: Any


def quantize_config(file: FilePath | None, options: Sequence[Option]) -> QuantizeConfig:
    """The configuration of one call of the command.

    Args:
        file: a YAML file, if one was given.
        options: what was given on the command line, unset ones left out.

    Raises:
        ConfigError: the file cannot be read.
        ConfigProblems: everything that is wrong.
    """
    source = Source("the command line", {}) if file is None else read_composed(file, needs=("model", "output"))
    if file is not None:
        refuse_training_files(source.data, str(file))
    _replace_choices(source, options)
    _set_options(source, options)
    return checked_section(source, QuantizeConfig)


def calibration_of(options: Sequence[Option]) -> Calibration:
    """What the options of `entrenar calibrate` say; their keys begin with ``quantize.calibration``.

    Raises:
        ConfigProblems: everything that is wrong.
    """
    source = Source("the command line", {})
    _set_options(source, options)
    return checked_section(source, CalibrateConfig).quantize.calibration


def _set_options(source: Source, options: Sequence[Option]) -> None:
    for index, option in enumerate(options):
        place = Place(option.name, (_AFTER_THE_FILES, index, 0), str(option.value))
        set_value(source, option.key, option.value, place)


def _replace_choices(source: Source, options: Sequence[Option]) -> None:
    given = {option.key for option in options}
    for section, keys in _CHOICES:
        if any((section, key) in given for key in keys):
            for key in keys:
                take_away(source, (section, key))
