"""Finds a merge method by name, and says what it needs and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from entrenar_core.errors import ConfigError
from entrenar_core.merge.breadcrumbs import breadcrumbs, breadcrumbs_ties
from entrenar_core.merge.dare import dare_linear, dare_ties
from entrenar_core.merge.della import della, della_linear
from entrenar_core.merge.ensembles import hierarchical, iterative_slerp
from entrenar_core.merge.karcher import karcher
from entrenar_core.merge.linear import linear, passthrough
from entrenar_core.merge.model_stock import model_stock
from entrenar_core.merge.multislerp import multislerp
from entrenar_core.merge.nearswap import nearswap
from entrenar_core.merge.nuslerp import nuslerp
from entrenar_core.merge.passes import Method, Rescale
from entrenar_core.merge.sce import sce
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
    """

    name: str
    run: Method
    over_base: OverBase
    n_models: tuple[int, int | None]
    takes: frozenset[str]
    normalize: bool = False
    rescale: Rescale | None = None


_MEAN = frozenset({"weight", "normalize"})
_JOINED = frozenset({"weight", "lambda_", "normalize"})
_SPARSE = _JOINED | {"density", "rescale"}
_DRAWN = _SPARSE | {"seed"}
_NUSLERP = frozenset({"weight", "flatten", "row_wise"})
_MANY = (1, None)
_SEVERAL = (2, None)

_ENTRIES = (
    MethodEntry("linear", linear, "never", _MANY, _MEAN, normalize=True),
    MethodEntry("slerp", slerp, "never", (2, 2), frozenset({"t"})),
    MethodEntry("nuslerp", nuslerp, "optional", (2, 2), _NUSLERP),
    MethodEntry("multislerp", multislerp, "optional", _SEVERAL, _MEAN | {"eps"}, normalize=True),
    MethodEntry("karcher", karcher, "optional", _SEVERAL, frozenset()),
    MethodEntry("iterative_slerp", iterative_slerp, "never", _SEVERAL, frozenset({"weight"})),
    MethodEntry("hierarchical", hierarchical, "never", _SEVERAL, frozenset({"weight"})),
    MethodEntry("model_stock", model_stock, "required", _SEVERAL, frozenset()),
    MethodEntry("sce", sce, "required", _SEVERAL, frozenset({"select_topk"})),
    MethodEntry("nearswap", nearswap, "never", (2, 2), frozenset({"t"})),
    MethodEntry("passthrough", passthrough, "never", (1, 1), frozenset({"scale"})),
    MethodEntry("task_arithmetic", task_arithmetic, "required", _MANY, _JOINED),
    MethodEntry("ties", ties, "required", _MANY, _SPARSE, normalize=True),
    MethodEntry("dare_linear", dare_linear, "required", _MANY, _DRAWN, rescale="l1"),
    MethodEntry("dare_ties", dare_ties, "required", _MANY, _DRAWN, rescale="l1"),
    MethodEntry("breadcrumbs", breadcrumbs, "required", _MANY, _SPARSE | {"gamma"}),
    MethodEntry("breadcrumbs_ties", breadcrumbs_ties, "required", _MANY, _SPARSE | {"gamma"}),
    MethodEntry("della", della, "required", _MANY, _DRAWN | {"epsilon"}, normalize=True, rescale="l1"),
    MethodEntry("della_linear", della_linear, "required", _MANY, _DRAWN | {"epsilon"}, rescale="l1"),
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
