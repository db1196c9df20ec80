"""The section merge: what it means, and what it excludes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from entrenar_core.config.load import config_from_text
from entrenar_core.config.merge import AVAILABLE_METHODS, Merge
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.root import Config

HEAD = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"


def read(text: str) -> Config:
    return config_from_text(HEAD + text, "t.yaml")


def problem(text: str) -> str:
    with pytest.raises(ConfigProblems) as caught:
        read(text)
    [only] = caught.value.problems
    return str(only)


@pytest.mark.parametrize(
    ("method", "normalize"), [("TIES", True), ("ties", True), ("Task_Arithmetic", False), ("della", True)]
)
def test_a_merge_alone_is_that_of_the_trained_model(method: str, normalize: bool) -> None:
    merge = read(f"merge: {{method: {method}}}").merge
    assert merge is not None
    assert (merge.method, merge.normalize) == (method.lower(), normalize)
    assert (merge.density, merge.weight, merge.lambda_, merge.models) == (1.0, 1.0, 1.0, None)


def test_other_models_are_paths_with_weights() -> None:
    merge = read(
        "merge: {method: ties, lambda: 0.5, models: [a.gguf, {path: b.gguf, weight: 0.3, density: 0.1}]}"
    ).merge
    assert merge is not None
    assert merge.lambda_ == 0.5
    assert merge.models is not None
    assert [(model.path, model.weight, model.density) for model in merge.models] == [
        ("a.gguf", 1.0, None),
        ("b.gguf", 0.3, 0.1),
    ]


@pytest.mark.parametrize("method", AVAILABLE_METHODS)
def test_every_method_that_joins_models_can_be_had(method: str) -> None:
    t = ", t: 0.001" if method == "nearswap" else ""
    merge = read(f"merge: {{method: {method}, models: [other.gguf]{t}}}").merge
    assert merge is not None
    assert merge.method == method


def test_passthrough_joins_nothing() -> None:
    assert problem("merge: {method: passthrough}") == (
        "t.yaml:3:9: merge.method: passthrough joins no models; use it in `entrenar merge`, or set it to linear"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge: {method: task_arithmetic, density: 0.5}", "merge.density: task_arithmetic keeps every change"),
        (
            "merge: {method: task_arithmetic, models: [{path: a, density: 0.5}]}",
            "merge.models[0].density: task_arithmetic keeps every change",
        ),
        ("merge: {method: linear}", "merge.models: linear joins the trained model with another one"),
        (
            "merge: {method: slerp, models: [a, b]}",
            "merge.models: slerp takes 2 models, the trained one and 1 more",
        ),
        ("merge: {method: nearswap, models: [a]}", "merge.t: nearswap needs a distance, and has no usual one"),
        ("merge: {method: ties, t: 0.5}", "merge.t: has no meaning for ties; remove it; it is for slerp, nearswap"),
        ("merge: {method: slerp, models: [a], lambda: 2}", "merge.lambda: has no meaning for slerp"),
        ("merge: {method: della, density: 0.9}", "merge.density: density 0.9 - epsilon 0.15 and their sum must lie"),
        (
            "merge: {method: della, epsilon: 0.1, models: [{path: a, density: 0.1}]}",
            "merge.models[0].density: density 0.1 - epsilon 0.1 and their sum",
        ),
        (
            "lora: {}\nmerge: {method: ties}\noutput: {merge_adapter: false}",
            "output.merge_adapter: is false, and merge",
        ),
        ("lora: {}\nmerge: {method: ties}\noutput: {gguf: false}", "output.gguf: is false, and merge"),
    ],
)
def test_what_a_merge_excludes(text: str, says: str) -> None:
    assert says in problem(text)


def test_a_merge_needs_a_base() -> None:
    shape = "type: llama, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128, vocab_size: 512"
    with pytest.raises(ConfigProblems, match="merge: needs a base model"):
        config_from_text(f"model: {{architecture: {{{shape}}}}}\ndata: {{train: a}}\nmerge: {{method: ties}}", "t.yaml")


def test_lambda_is_the_only_name_of_its_key() -> None:
    assert Merge.model_validate({"method": "ties", "lambda": 0.5}).lambda_ == 0.5
    with pytest.raises(ValidationError):
        Merge.model_validate({"method": "ties", "lambda_": 0.5})
