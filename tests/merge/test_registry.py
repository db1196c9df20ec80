"""Methods are found by name, and their entries say what they do."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from entrenar_core.errors import ConfigError
from entrenar_core.merge.passes import Parameters
from entrenar_core.merge.registry import METHOD_NAMES, MethodEntry, method_entry
from entrenar_core.merge.ties import ties
from tests.merge.merging import floats, merged

ENTRIES = [method_entry(name) for name in METHOD_NAMES]
BASE, *MODELS = np.random.default_rng(5).standard_normal((4, 8, 6)).astype(np.float32)
OTHER: dict[str, object] = {
    "weight": (0.25, 2.0, 1.5),
    "density": (0.4, 0.5, 0.6),
    "gamma": (0.2, 0.2, 0.2),
    "epsilon": (0.3, 0.3, 0.3),
    "scale": (3.0, 3.0, 3.0),
    "lambda_": 0.5,
    "normalize": True,
    "rescale": "density",
    "t": 0.125,
    "select_topk": 0.5,
    "flatten": True,
    "row_wise": True,
    "eps": 2.0,
    "seed": 5,
}
"""A value of each parameter that differs from what the tests pass otherwise."""


def run(entry: MethodEntry, **changed: object) -> np.ndarray:
    least = entry.facts.n_models[0]
    n_models = 3 if entry.facts.n_models[1] is None else least
    base = BASE if entry.facts.over_base != "never" else None
    values = {"density": [0.5] * n_models, "normalize": False, "rescale": None, "flatten": False, **changed}
    values = {key: list(value)[:n_models] if isinstance(value, tuple) else value for key, value in values.items()}
    return merged(entry.name, MODELS[:n_models], base, **values)


def test_methods_are_found_in_any_case_and_others_are_refused_with_a_list() -> None:
    assert method_entry("TIES").run is ties
    with pytest.raises(ConfigError, match="no merge method 'slurp'") as caught:
        method_entry("slurp")
    assert caught.value.hint == f"one of {', '.join(METHOD_NAMES)}"


@pytest.mark.parametrize("entry", ENTRIES, ids=METHOD_NAMES)
def test_a_method_takes_known_parameters_and_no_other_changes_its_result(entry: MethodEntry) -> None:
    names = {field.name for field in fields(Parameters)}
    assert entry.facts.takes <= names
    plain = run(entry)
    for name in names - entry.facts.takes:
        np.testing.assert_array_equal(run(entry, **{name: OTHER[name]}), plain, err_msg=name)


@pytest.mark.parametrize("entry", ENTRIES, ids=METHOD_NAMES)
def test_each_parameter_that_a_method_takes_changes_its_result(entry: MethodEntry) -> None:
    plain = run(entry)
    for name in entry.facts.takes:
        assert (run(entry, **{name: OTHER[name]}) != plain).any(), name


@pytest.mark.parametrize("entry", ENTRIES, ids=METHOD_NAMES)
def test_arguments_are_left_alone_and_results_are_float32(entry: MethodEntry) -> None:
    before = [model.copy() for model in MODELS]
    assert run(entry).dtype == np.float32
    assert all((model == copy).all() for model, copy in zip(MODELS, before, strict=True))


def test_models_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        merged("linear", [floats(1, 2), floats(1, 2, 3)])
