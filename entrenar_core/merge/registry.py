"""Finds a merge method by name. All are called alike; what a method does not know, it does not look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from entrenar_core.errors import ConfigError
from entrenar_core.merge.combine import Floats
from entrenar_core.merge.task_arithmetic import task_arithmetic
from entrenar_core.merge.ties import ties


class MergeMethod(Protocol):
    """deltas, weights and densities of N models for one tensor -> what is added to the base, of the same shape."""

    def __call__(
        self,
        deltas: Sequence[Floats],
        weights: Sequence[float],
        densities: Sequence[float],
        *,
        lambda_: float,
        normalize: bool,
    ) -> Floats: ...


def _task_arithmetic(
    deltas: Sequence[Floats],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    lambda_: float,
    normalize: bool,
) -> Floats:
    del densities  # every entry is kept
    return task_arithmetic(deltas, weights, lambda_=lambda_, normalize=normalize)


_METHODS: dict[str, MergeMethod] = {"ties": ties, "task_arithmetic": _task_arithmetic}

METHOD_NAMES: tuple[str, ...] = tuple(_METHODS)


def merge_method(name: str) -> MergeMethod:
    """The method of this name, in any case.

    Raises:
        ConfigError: there is none.
    """
    method = _METHODS.get(name.lower())
    if method is None:
        raise ConfigError(f"there is no merge method {name!r}", hint=f"one of {', '.join(METHOD_NAMES)}")
    return method
