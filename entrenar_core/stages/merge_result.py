"""Joins a trained model with others over their common base, as the `merge` section says.

Methods that work on changes are given what training changed against what it started from, and what each other model
changed against the base file: result = start + λ·method(changes), tensor by tensor. The others are given the models
themselves, the trained one first. The files are opened and compared with the base before training, and stay open until
the result is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from entrenar_core.config.merge import Merge
from entrenar_core.config.merge_methods import EPSILON, GAMMA, METHODS
from entrenar_core.errors import ModelError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.keys import TOKENIZER_TOKENS
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.merge.fit import check_fit, facts_of_file
from entrenar_core.merge.passes import Parameters, Rescale, merge_arrays
from entrenar_core.merge.registry import MethodEntry, method_entry
from entrenar_core.merge.stored_rows import check_decodable
from entrenar_core.model.load import read_spec
from entrenar_core.stages.changes import Changes, Values


@dataclass(frozen=True)
class OtherModel:
    """A model that is joined with the trained one."""

    file: GGUFFile
    weight: float
    density: float


@dataclass(frozen=True)
class MergePlan:
    """The `merge` section with its files open. The first model of the parameters is the trained one."""

    method: MethodEntry
    parameters: Parameters
    others: tuple[OtherModel, ...]

    @property
    def sums_models(self) -> bool:
        """Whether equal models give something else: they are added up, and not averaged."""
        is_average = "normalize" not in self.method.facts.takes or self.parameters.normalize
        return self.method.facts.over_base != "required" and not is_average

    def close(self) -> None:
        """Let go of the files."""
        for other in self.others:
            other.file.close()


def open_merge(section: Merge, base: GGUFFile, reporter: Reporter) -> MergePlan:
    """Open the models of a `merge` section and check that they fit the base.

    Raises:
        FormatError: a file cannot be read, or a tensor of it cannot be decoded.
        ModelError: a model has other tensors, shapes or constants than the base; the first difference is named.
    """
    others = []
    with ExitStack() as opened:
        for entry in section.models or ():
            file = opened.enter_context(GGUFFile.open(entry.path))
            _check_fits(file, base, reporter)
            density = section.density if entry.density is None else entry.density
            others.append(OtherModel(file, entry.weight, density))
        opened.pop_all()
    return MergePlan(method_entry(section.method), _parameters(section, others), tuple(others))


def _parameters(section: Merge, others: Sequence[OtherModel]) -> Parameters:
    count = 1 + len(others)
    known = {name: getattr(section, name) for name in ("t", "select_topk", "flatten", "row_wise", "eps", "seed")}
    return Parameters(
        weight=(section.weight, *(other.weight for other in others)),
        density=(section.density, *(other.density for other in others)),
        gamma=(GAMMA if section.gamma is None else section.gamma,) * count,
        epsilon=(EPSILON if section.epsilon is None else section.epsilon,) * count,
        scale=(1.0,) * count,
        lambda_=section.lambda_,
        normalize=section.normalize,
        rescale=_rescale(section),
        **{name: value for name, value in known.items() if value is not None},
    )


def _rescale(section: Merge) -> Rescale | None:
    word = METHODS[section.method].rescale if section.rescale is None else section.rescale
    return None if word == "none" else word


def merged_values(changes: Changes, plan: MergePlan) -> dict[str, Values]:
    """The tensors of the result that differ from the base file.

    A tensor that only a packed base has rounded is as it was held, and one that no model changed is not among them.
    `rope_freqs` is no weight and stays that of the base.
    """
    touched = [name for name in changes.base.tensors if name != ROPE_FREQS and _is_touched(name, changes, plan)]
    return {**changes.held_values(), **{name: _joined(name, changes, plan) for name in touched}}


def _is_touched(name: str, changes: Changes, plan: MergePlan) -> bool:
    if name in changes.adapters or name in changes.trained or plan.sums_models:
        return True
    return any(_differs(other.file, changes.base, name) for other in plan.others)


def _differs(file: GGUFFile, base: GGUFFile, name: str) -> bool:
    same_type = file.tensors[name].type_name == base.tensors[name].type_name
    return not (same_type and np.array_equal(file.raw(name), base.raw(name)))


def _joined(name: str, changes: Changes, plan: MergePlan) -> Values:
    def compute() -> np.ndarray:
        values, delta = changes.start(name), changes.delta(name)
        others = [_finite(other.file, name) for other in plan.others]
        if plan.method.facts.over_base != "required":
            trained = values if delta is None else values + delta
            return merge_arrays(plan.method.run, [trained, *others], plan.parameters, name=name)
        base = changes.base.load(name)
        for values_of_other in others:
            np.subtract(values_of_other, base, out=values_of_other)
        deltas = [np.zeros_like(base) if delta is None else delta, *others]
        values += merge_arrays(plan.method.run, deltas, plan.parameters, base=np.zeros_like(base), name=name)
        return values

    return compute


def _finite(file: GGUFFile, name: str) -> np.ndarray:
    """The values of a tensor; NaN would count as no change, and its sign as a vote."""
    values = file.load(name)
    if not np.isfinite(values).all():
        raise ModelError(
            "the tensor holds numbers that are not finite", where=f"{file.paths[0]}: tensor {name}", hint="leave it out"
        )
    return values


def _check_fits(file: GGUFFile, base: GGUFFile, reporter: Reporter) -> None:
    source = str(file.paths[0])
    read_spec(file)
    check_fit(facts_of_file(file), facts_of_file(base))
    for name, info in file.tensors.items():
        check_decodable(info, f"{source}: tensor {name}")
    if not _same_tokens(file, base):
        message = f"{source} has another vocabulary than the base; the result has that of the base"
        reporter.emit(Notice("warning", message))


def _same_tokens(file: GGUFFile, base: GGUFFile) -> bool:
    return bool(np.array_equal(np.asarray(_tokens(file)), np.asarray(_tokens(base))))


def _tokens(file: GGUFFile) -> object:
    return file.metadata.get(TOKENIZER_TOKENS, [])
