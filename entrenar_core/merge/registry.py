"""Finds a merge method by name. What it needs and looks at stands in `config.merge_methods`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from entrenar_core.config.merge_methods import METHODS, MethodFacts
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
from entrenar_core.merge.passes import Method
from entrenar_core.merge.sce import sce
from entrenar_core.merge.slerp import slerp
from entrenar_core.merge.task_arithmetic import task_arithmetic
from entrenar_core.merge.ties import ties


@dataclass(frozen=True)
class MethodEntry:
    """A merge method: its name in a config, how it runs, and what it is given."""

    name: str
    run: Method
    facts: MethodFacts


_RUN: Mapping[str, Method] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "iterative_slerp": iterative_slerp,
    "hierarchical": hierarchical,
    "model_stock": model_stock,
    "sce": sce,
    "nearswap": nearswap,
    "passthrough": passthrough,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "della": della,
    "della_linear": della_linear,
}

METHOD_NAMES: tuple[str, ...] = tuple(_RUN)


def method_entry(name: str) -> MethodEntry:
    """The method of this name, in any case.

    Raises:
        ConfigError: there is none.
    """
    known = name.lower()
    if known not in _RUN:
        raise ConfigError(f"there is no merge method {name!r}", hint=f"one of {', '.join(METHOD_NAMES)}")
    return MethodEntry(known, _RUN[known], METHODS[known])
