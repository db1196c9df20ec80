"""Finds a merge method by name, and says what it needs and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from entrenar_core.errors import ConfigError
from entrenar_core.merge.dare import dare_linear, dare_ties
from entrenar_core.merge.linear import linear, passthrough
from entrenar_core.merge.passes import Method, Rescale
from entrenar_core.merge.slerp import slerp
from entrenar_core.merge.task_arithmetic import task_arithmetic
from entrenar_core.merge.ties import ties

OverBase = Literal["required", "optional", "never"]


@dataclass(frozen=True)
class MethodEntry:
    """A merge method.

    Attributes:
        name: what it is called in a config.
        run: the method.
        over_base: whether models are merged over a base.
        n_models: how many at least, and at most (None: any number), without the base.
        takes: the fields of `Parameters` that it looks at.
        normalize, rescale: what these are by default.
        is_linear: whether the result is a sum of the models times constants, so that a constant that is added to all of
            them is added to it.
    """

    name: str
    run: Method
    over_base: OverBase
    n_models: tuple[int, int | None]
    takes: frozenset[str]
    normalize: bool = False
    rescale: Rescale | None = None
    is_linear: bool = False


_MEAN = frozenset({"weight", "normalize"})
_JOINED = frozenset({"weight", "lambda_", "normalize"})
_SPARSE = _JOINED | {"density", "rescale"}
_RANDOM = _SPARSE | {"seed"}

_ENTRIES = (
    MethodEntry(
        "linear", linear, "never", (1, None), frozenset({"weight", "normalize"}), normalize=True, is_linear=True
    ),
    MethodEntry("slerp", slerp, "never", (2, 2), frozenset({"t"})),
    MethodEntry("passthrough", passthrough, "never", (1, 1), frozenset({"scale"})),
    MethodEntry("task_arithmetic", task_arithmetic, "required", (1, None), _JOINED, is_linear=True),
    MethodEntry("ties", ties, "required", (1, None), _SPARSE, normalize=True),
    MethodEntry("dare_linear", dare_linear, "required", (1, None), _RANDOM, rescale="l1"),
    MethodEntry("dare_ties", dare_ties, "required", (1, None), _RANDOM, rescale="l1"),
)
_BY_NAME = {entry.name: entry for entry in _ENTRIES}

METHOD_NAMES: tuple[str, ...] = tuple(_BY_NAME)


def method_entry(name: str) -> MethodEntry:
    """The method of this name, in any case.

    Raises:
        ConfigError: there is none.
    """
    entry = _BY_NAME.get(name.lower())
    if entry is None:
        raise ConfigError(f"there is no merge method {name!r}", hint=f"one of {', '.join(METHOD_NAMES)}")
    return entry
