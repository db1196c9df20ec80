"""What the configuration says of the methods; that they look at no other parameters is tested with the registry."""

from __future__ import annotations

from dataclasses import fields

from entrenar_core.config.merge_methods import METHOD_NAMES, METHODS
from entrenar_core.config.merge_parameters import MODEL_KEYS, TENSOR_KEYS
from entrenar_core.merge import registry
from entrenar_core.merge.passes import Parameters


def test_the_defaults_are_those_of_mergekit() -> None:
    assert {name for name, facts in METHODS.items() if facts.normalize} == {"linear", "multislerp", "ties", "della"}
    restored = {name for name, facts in METHODS.items() if facts.rescale == "l1"}
    assert restored == {"dare_linear", "dare_ties", "della", "della_linear"}
    assert {facts.rescale for name, facts in METHODS.items() if name not in restored} == {"none"}


def test_one_model_alone_is_merged_only_over_a_base_or_as_it_is() -> None:
    alone = {name for name, facts in METHODS.items() if facts.takes_models(1)}
    over = {name for name, facts in METHODS.items() if "lambda_" in facts.takes}
    assert alone == {"passthrough"} | over
    assert {METHODS[name].over_base for name in over} == {"required"}


def test_every_method_and_every_parameter_has_a_key() -> None:
    assert tuple(METHODS) == METHOD_NAMES
    assert set(METHODS) == set(registry.METHOD_NAMES)
    assert {"seed", *MODEL_KEYS, *TENSOR_KEYS} == {field.name for field in fields(Parameters)}
