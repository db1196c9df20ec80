"""The `optimizer` section: the update rule, its own keys, and the learning rate over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from entrenar_core.config.base import AnyCase, Conflict, Section, is_number, not_allowed

_DEFAULTS = {"name": "adamw", "schedule": "constant"}
OWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw"),
}
"""Keys that only some optimizers have."""


_Decays = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
_StepsOrFraction = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)]
"""The two values as they are written, for the JSON Schema."""


def _two_decays(value: Any) -> Any:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not is_pair or not all(is_number(beta) and 0 <= beta < 1 for beta in value):
        raise not_allowed("two numbers, each at least 0 and less than 1, such as [0.9, 0.999]")
    return tuple(float(beta) for beta in value)


def _steps_or_fraction(value: Any) -> Any:
    is_steps = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_steps and not (isinstance(value, float) and 0 <= value < 1):
        raise not_allowed("a whole number of steps (100), or a fraction of all steps that is less than 1 (0.05)")
    return value


class Optimizer(Section):
    """The update rule and the learning rate over time."""

    name: Annotated[Literal["sgd", "adam", "adamw"], AnyCase] = Field(default="adamw", description="the update rule")
    lr: float = Field(default=1e-4, gt=0, description="peak learning rate")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd: share of the last update that is kept")
    nesterov: bool = Field(default=False, description="sgd: look ahead along the momentum")
    betas: Annotated[tuple[float, float], BeforeValidator(_two_decays, json_schema_input_type=_Decays)] = Field(
        default=(0.9, 0.999), description="adam, adamw: decay of the gradient's mean and of its square"
    )
    eps: float = Field(default=1e-8, gt=0, description="adam, adamw: added to the denominator")
    weight_decay: float = Field(
        default_factory=lambda known: 0.01 if known["name"] == "adamw" else 0.0,
        ge=0,
        description="pull towards zero, not applied to norms and biases; default: 0.01 for adamw, else 0",
    )
    schedule: Annotated[Literal["constant", "linear", "cosine"], AnyCase] = Field(
        default="constant", description="how the learning rate goes after the warm-up"
    )
    warmup: Annotated[int | float, BeforeValidator(_steps_or_fraction, json_schema_input_type=_StepsOrFraction)] = (
        Field(default=0, description="rise of the learning rate: a number of steps, or a fraction of all steps below 1")
    )
    min_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="linear, cosine: the last learning rate as a share of lr"
    )
    grad_clip: float | None = Field(
        default=1.0, gt=0, description="largest global norm of the gradient; null: no clipping"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        name, schedule = (str(given.get(key, default)).lower() for key, default in _DEFAULTS.items())
        if name in ("sgd", "adam", "adamw"):
            yield from cls._keys_of_others(name, given)
        if name == "sgd" and given.get("nesterov") is True and not given.get("momentum"):
            yield Conflict("nesterov", "needs a momentum above 0", "add momentum: 0.9")
        floor = given.get("min_lr_ratio")
        if schedule == "constant" and is_number(floor) and floor > 0:
            yield Conflict("min_lr_ratio", "has no effect on a constant schedule", "set schedule: linear or cosine")

    @staticmethod
    def _keys_of_others(name: str, given: Mapping[str, Any]) -> Iterator[Conflict]:
        for key, owners in OWN_KEYS.items():
            if key in given and name not in owners:
                yield Conflict(
                    key,
                    f"{name} has no {key}; it belongs to {' and '.join(owners)}",
                    "remove it, or change optimizer.name",
                )

    @model_serializer(mode="wrap")
    def _only_own_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if self.name in OWN_KEYS.get(key, (self.name,))}
