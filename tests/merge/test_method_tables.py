"""What the configuration says of the methods is what the methods say of themselves."""

from __future__ import annotations

from dataclasses import fields

import pytest

from entrenar_core.config.merge_methods import METHOD_NAMES, METHODS
from entrenar_core.config.merge_parameters import MODEL_KEYS, TENSOR_KEYS
from entrenar_core.merge import registry
from entrenar_core.merge.passes import Parameters


@pytest.mark.parametrize("name", registry.METHOD_NAMES)
def test_both_tables_say_the_same_of_a_method(name: str) -> None:
    entry, facts = registry.method_entry(name), METHODS[name]
    assert (facts.over_base, facts.takes) == (entry.over_base, entry.takes)
    assert (facts.normalize, facts.rescale) == (entry.normalize, entry.rescale or "none")
    assert facts.n_models[1] == entry.n_models[1]
    assert facts.n_models[0] >= entry.n_models[0], (
        "one model joined with nothing is no merge, though it can be computed"
    )


def test_every_method_and_every_parameter_has_a_key() -> None:
    assert tuple(METHODS) == METHOD_NAMES
    assert set(METHODS) == set(registry.METHOD_NAMES)
    assert {"seed", *MODEL_KEYS, *TENSOR_KEYS} == {field.name for field in fields(Parameters)}
