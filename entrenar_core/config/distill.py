"""The `distill` section: teachers whose predictions a model learns, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from entrenar_core.config.base import AnyCase, Conflict, NonEmpty, Section, UserPath, is_number, not_allowed
from entrenar_core.config.student import Student, is_block

DivergenceName = Literal["forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse"]


class Teacher(Section):
    """One of several teachers."""

    path: Annotated[str, UserPath] = Field(min_length=1, description="a GGUF file, of any quantization")
    weight: float = Field(default=1.0, gt=0, description="share of this teacher among all")


class Hidden(Section):
    """How the hidden states of blocks are matched with the teacher's."""

    loss: Annotated[Literal["mse", "cosine"], AnyCase] = Field(
        default="mse", description="mean square of the difference, or 1 - cosine"
    )
    weight: float = Field(default=1.0, ge=0, description="factor of the hidden states' loss beside the others")
    attention: float = Field(
        default=0.0, ge=0, description="factor of the divergence of attention maps of the same blocks; 0: none"
    )
    progressive: int = Field(
        default=0,
        ge=0,
        description="optimizer steps after which the next pair of blocks joins, from the bottom; 0: all at once",
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if given.get("weight") == 0 and not given.get("attention"):
            yield Conflict("weight", "nothing is matched with a weight of 0", "remove distill.layers, or set attention")


class TeacherCache(Section):
    """Predictions of the teachers that are written once and read in every epoch."""

    path: Annotated[str, UserPath] = Field(min_length=1, description="folder of the predictions; made if it is missing")
    top_k: int = Field(
        default=64,
        ge=1,
        description="likeliest tokens that are kept at each position, beside the mass of all others; as many as the "
        "vocabulary has: everything",
    )
    dtype: Annotated[Literal["float32", "float16"], AnyCase] = Field(
        default="float32", description="number type of the kept predictions"
    )


class OnPolicy(Section):
    """Batches whose texts the student writes itself, after the beginnings of those of the data."""

    fraction: float = Field(default=0.5, gt=0, le=1, description="share of the batches that the student writes")
    max_tokens: int = Field(default=64, ge=1, description="most tokens that it writes after a prompt")
    prompt_tokens: int = Field(
        default=16, ge=1, description="tokens of the beginning of an example that has no prompt of its own"
    )
    temperature: float = Field(default=1.0, ge=0, description="of the student's draws; 0: the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1, description="draw among the likeliest tokens with this mass")


def _teachers(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list of teachers such as [big.gguf, {path: bigger.gguf, weight: 2}]")
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)


def _layers(value: Any) -> Any:
    """The word ``even``, numbers of the student's blocks, or pairs of a student's and a teacher's block."""
    if isinstance(value, str) and value.lower() == "even":
        return "even"
    found = _pairs(value) if isinstance(value, Mapping) else _distinct_blocks(value)
    if value is not None and not found:
        raise not_allowed(
            "the word even, a list of the student's blocks, counted from 0, such as [3, 7], or pairs of a student's "
            "and a teacher's block, such as {3: 7, 7: 15}"
        )
    return found


def _pairs(value: Mapping[Any, Any]) -> dict[int, int] | None:
    """Block by block, whose keys are text in YAML; None where something else stands there."""
    numbers = {int(key) if isinstance(key, str) and key.isdecimal() else key: block for key, block in value.items()}
    return numbers if all(is_block(block) for pair in numbers.items() for block in pair) else None


def _distinct_blocks(value: Any) -> tuple[int, ...] | None:
    is_list = isinstance(value, (list, tuple)) and all(is_block(block) for block in value)
    return tuple(value) if is_list and len(set(value)) == len(value) else None


_Block = Annotated[int, Field(ge=0)]
_Layers = Literal["even"] | Annotated[list[_Block], Field(min_length=1)] | dict[str, _Block] | None
_Teachers = Annotated[list[NonEmpty | Teacher], Field(min_length=1)] | None


class Distill(Section):
    """Learning from the predictions of one or several teachers, beside the data's own tokens."""

    teacher: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="a GGUF file of any quantization, whose predictions are learned"
    )
    teachers: Annotated[tuple[Teacher, ...] | None, BeforeValidator(_teachers, json_schema_input_type=_Teachers)] = (
        Field(default=None, description="several teachers and their weights, instead of teacher")
    )
    combine: Annotated[Literal["mean", "confidence"], AnyCase] = Field(
        default="mean",
        description="several teachers: the weighted mean of their probabilities, or one in which at each position the "
        "surer teachers count more",
    )
    loss: Annotated[DivergenceName, AnyCase] = Field(
        default="forward_kl", description="how far the student's predictions are from the teacher's"
    )
    beta: float = Field(
        default=0.5, gt=0, lt=1, description="jensen_shannon: share of the teacher in the mixture of both"
    )
    temperature: float = Field(
        default=2.0, gt=0, description="divides the logits of both models before the softmax: above 1 it is softer"
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the teacher's loss; the rest is the cross-entropy of the data's tokens",
    )
    min_coverage: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="least share of the student's tokens that the teacher must have, where their vocabularies differ",
    )
    layers: Annotated[
        Literal["even"] | tuple[int, ...] | dict[int, int] | None,
        BeforeValidator(_layers, json_schema_input_type=_Layers),
    ] = Field(
        default=None,
        description="blocks whose hidden states are matched too: even (all, spread over the teacher's), a list of the "
        "student's, or {student's: teacher's}; default: none",
    )
    hidden: Hidden = Field(default_factory=Hidden, description="how the hidden states of distill.layers are matched")
    cache: TeacherCache | None = Field(
        default=None, description="keep the teachers' predictions; default: they are computed at every step"
    )
    on_policy: OnPolicy | None = Field(
        default=None, description="learn on texts that the student writes, too; default: on those of the data only"
    )
    student: Student | None = Field(
        default=None, description="make the model from the (first) teacher, instead of model.path"
    )

    @property
    def all_teachers(self) -> tuple[Teacher, ...]:
        """The teachers, however they are written, at least one."""
        return self.teachers or (Teacher(path=str(self.teacher)),)

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from _one_way_to_name_teachers(given)
        for key, has_meaning, needs in _CONDITIONS:
            if key in given and not has_meaning(given):
                yield Conflict(key, *needs)
        if _learns_nothing(given):
            hint = "set it above 0, match distill.layers, or remove the section"
            yield Conflict("alpha", "0 takes nothing from the teacher", hint)
        if "cache" in given:
            yield from _cache_conflicts(given)

    @model_serializer(mode="wrap")
    def _only_what_has_meaning(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        given = {key: getattr(self, key) for key in type(self).model_fields if getattr(self, key) is not None}
        without = {key for key, has_meaning, _ in _CONDITIONS if not has_meaning(given)}
        return {key: value for key, value in content.items() if key not in without}


def _one_way_to_name_teachers(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if "teacher" in given and "teachers" in given:
        yield Conflict("teachers", "cannot go together with distill.teacher", "keep one of them")
    elif "teacher" not in given and "teachers" not in given:
        yield Conflict("teacher", "required key is missing", "name a GGUF file")


def _cache_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if _is_zero(given.get("alpha")):
        yield Conflict("cache", "keeps predictions, and with alpha 0 none are learned", "remove it")
    if "layers" in given:
        message = "has predictions, and no hidden states for distill.layers to follow"
        yield Conflict("cache", message, "keep one of them")
    if "on_policy" in given:
        message = "cannot go together with distill.on_policy: nobody knows before what the student will write"
        yield Conflict("cache", message, "keep one of them")


def _learns_nothing(given: Mapping[str, Any]) -> bool:
    """Without its loss on the data, a teacher is of use by hidden states, texts of the student, or its weights."""
    return _is_zero(given.get("alpha")) and not {"layers", "on_policy", "student"} & given.keys()


def _is_zero(value: object) -> bool:
    return is_number(value) and value == 0


def _has_several_teachers(given: Mapping[str, Any]) -> bool:
    teachers = given.get("teachers")
    return not isinstance(teachers, (list, tuple)) or len(teachers) > 1 if "teacher" not in given else False


def _loss_of(given: Mapping[str, Any]) -> str:
    return str(given.get("loss", "forward_kl")).lower()


_CONDITIONS: tuple[tuple[str, Callable[[Mapping[str, Any]], bool], tuple[str, str]], ...] = (
    ("combine", _has_several_teachers, ("needs several teachers", "name them in distill.teachers, or remove it")),
    (
        "beta",
        lambda given: _loss_of(given) == "jensen_shannon",
        ("has no meaning for this loss", "set loss: jensen_shannon, or remove it"),
    ),
    (
        "temperature",
        lambda given: _loss_of(given) != "logit_mse",
        ("has no effect on logit_mse, which compares the logits themselves", "remove it"),
    ),
    (
        "hidden",
        lambda given: "layers" in given,
        ("says how hidden states are matched, and there are no distill.layers", "set layers: even, or remove it"),
    ),
)
"""Keys that have a meaning only beside others: when, and what is said where they have none."""
