"""What each merge method is given: over a base or not, how many models, which parameters, and their defaults.

The methods themselves are in `merge.registry`, which this package may not import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

MethodName = Literal[
    "linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock", "sce", "nearswap", "passthrough",
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
    "iterative_slerp", "hierarchical",
]  # fmt: skip
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)

OverBase = Literal["required", "optional", "never"]

RescaleWord = Literal["l1", "density", "none"]


@dataclass(frozen=True)
class MethodFacts:
    """What a method is given.

    Attributes:
        over_base: whether it works on changes against a base model.
        n_models: least and most models; the base is none of them. None: any number.
        takes: the parameters that it looks at, by the names of `merge.passes.Parameters`.
        normalize: the default.
        rescale: the default.
    """

    over_base: OverBase
    n_models: tuple[int, int | None]
    takes: frozenset[str]
    normalize: bool = False
    rescale: RescaleWord = "none"

    @property
    def base_is_a_model(self) -> bool:
        """Whether a base that is named is one of the two models that are merged: the one at t = 0."""
        return "t" in self.takes

    def takes_models(self, count: int) -> bool:
        """Whether so many models can be merged."""
        least, most = self.n_models
        return least <= count and (most is None or count <= most)


def _over_base(*takes: str, normalize: bool = False, rescale: RescaleWord = "none") -> MethodFacts:
    """A method of the task-vector family."""
    known = frozenset(("weight", "lambda_", "normalize", *takes))
    return MethodFacts("required", (1, None), known, normalize=normalize, rescale=rescale)


_SPARSE = ("density", "rescale")

GAMMA, EPSILON = 0.01, 0.15
"""What these parameters are by default."""

METHODS: Mapping[str, MethodFacts] = {
    "linear": MethodFacts("never", (2, None), frozenset(("weight", "normalize")), normalize=True),
    "slerp": MethodFacts("never", (2, 2), frozenset(("t",))),
    "nuslerp": MethodFacts("optional", (2, 2), frozenset(("weight", "flatten", "row_wise"))),
    "multislerp": MethodFacts("optional", (2, None), frozenset(("weight", "normalize", "eps")), normalize=True),
    "karcher": MethodFacts("optional", (2, None), frozenset()),
    "model_stock": MethodFacts("required", (2, None), frozenset()),
    "sce": MethodFacts("required", (2, None), frozenset(("select_topk",))),
    "nearswap": MethodFacts("never", (2, 2), frozenset(("t",))),
    "passthrough": MethodFacts("never", (1, 1), frozenset(("scale",))),
    "task_arithmetic": _over_base(),
    "ties": _over_base(*_SPARSE, normalize=True),
    "dare_linear": _over_base(*_SPARSE, "seed", rescale="l1"),
    "dare_ties": _over_base(*_SPARSE, "seed", rescale="l1"),
    "breadcrumbs": _over_base(*_SPARSE, "gamma"),
    "breadcrumbs_ties": _over_base(*_SPARSE, "gamma"),
    "della": _over_base(*_SPARSE, "epsilon", "seed", normalize=True, rescale="l1"),
    "della_linear": _over_base(*_SPARSE, "epsilon", "seed", rescale="l1"),
    "iterative_slerp": MethodFacts("never", (2, None), frozenset(("weight",))),
    "hierarchical": MethodFacts("never", (2, None), frozenset(("weight",))),
}


def methods_taking(parameter: str) -> list[str]:
    """The methods that look at a parameter."""
    return [name for name, facts in METHODS.items() if parameter in facts.takes]
