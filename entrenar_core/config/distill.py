"""The `distill` section: teachers whose predictions a model learns. Its keys are known, its work is to come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import Conflict, NonEmpty, Section, is_count, not_allowed


class Teacher(Section):
    """One of several teachers."""

    path: str = Field(min_length=1, description="a GGUF file")
    weight: float = Field(default=1.0, gt=0, description="share of this teacher in the mean of all")


def _teachers(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list of teachers such as [big.gguf, {path: bigger.gguf, weight: 2}]")
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)


def _blocks(value: Any) -> Any:
    if value is None:
        return None
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    if not is_list or not all(is_count(number) or number == 0 for number in value):
        raise not_allowed("a list of block numbers, counted from 0, such as [3, 7, 11]")
    return tuple(value)


_Teachers = Annotated[list[NonEmpty | Teacher], Field(min_length=1)] | None
_Blocks = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None


class Distill(Section):
    """Learning from a larger model; the section is checked, and not available yet in this release."""

    teacher: str | None = Field(default=None, min_length=1, description="a GGUF file whose predictions are learned")
    teachers: Annotated[tuple[Teacher, ...] | None, BeforeValidator(_teachers, json_schema_input_type=_Teachers)] = (
        Field(default=None, description="several teachers and their weights, instead of teacher")
    )
    temperature: float = Field(default=2.0, gt=0, description="softens the predictions of both models")
    alpha: float = Field(default=0.5, ge=0, le=1, description="share of the teacher's loss; the rest is the data's")
    layers: Annotated[tuple[int, ...] | None, BeforeValidator(_blocks, json_schema_input_type=_Blocks)] = Field(
        default=None, description="blocks whose hidden states are matched too"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if "teacher" in given and "teachers" in given:
            yield Conflict("teachers", "cannot go together with distill.teacher", "keep one of them")
        elif "teacher" not in given and "teachers" not in given:
            yield Conflict("teacher", "required key is missing", "name a GGUF file")
