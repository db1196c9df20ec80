"""What each tensor of a merge is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.merge.merged_metadata import TASK_VECTOR
from entrenar_core.merge.plan import Input, MergePlan, plan_merge
from tests.merge.memory_models import WIDTH, MemoryModel, memory_model, merge_of, opened

UP = "blk.{}.ffn_up.weight"


def planned(config, **depths: int) -> MergePlan:  # type: ignore[no-untyped-def]
    return plan_merge(config, opened(config, **depths))


def parameters_of(plan: MergePlan, key: str) -> dict[str, object]:
    return {one.name: getattr(one.parameters, key) for one in plan.tensors}


def test_every_tensor_of_the_base_is_merged_from_all_models_in_its_order() -> None:
    plan = planned(merge_of("ties", ["a.gguf", "b.gguf"], base="base.gguf"))
    assert [model.path for model in plan.models] == ["base.gguf", "a.gguf", "b.gguf"]
    assert [one.name for one in plan.tensors] == list(plan.models[0].shapes)
    for one in plan.tensors:
        assert one.method == "ties"
        assert one.inputs == (Input(1, one.name), Input(2, one.name))
        assert one.base == one.like == Input(0, one.name)
        assert one.shape == plan.models[0].shapes[one.name]


def test_a_base_among_the_models_is_only_subtracted() -> None:
    plan = planned(merge_of("ties", ["base.gguf", "a.gguf"], base="./base.gguf"))
    assert len(plan.models) == 2
    assert all(one.inputs == (Input(1, one.name),) for one in plan.tensors)


def test_a_method_that_looks_at_no_base_merges_it_like_the_others() -> None:
    listed = planned(merge_of("linear", ["a.gguf", "base.gguf"], base="base.gguf"))
    assert {one.inputs for one in listed.tensors} == {
        (Input(1, one.name), Input(0, one.name)) for one in listed.tensors
    }
    beside = planned(merge_of("linear", ["a.gguf", "b.gguf"], base="base.gguf"))
    assert {one.inputs for one in beside.tensors} == {
        (Input(1, one.name), Input(2, one.name)) for one in beside.tensors
    }
    assert {one.base for one in (*listed.tensors, *beside.tensors)} == {None}


@pytest.mark.parametrize("models", [["a.gguf"], ["a.gguf", "base.gguf"], ["base.gguf", "a.gguf"]])
def test_slerp_begins_at_the_base(models: list[str]) -> None:
    plan = planned(merge_of("slerp", models, base="base.gguf"))
    assert all(one.inputs == (Input(0, one.name), Input(1, one.name)) for one in plan.tensors)
    assert {one.base for one in plan.tensors} == {None}


def test_a_model_may_be_named_twice() -> None:
    plan = planned(merge_of("linear", ["a.gguf", {"path": "a.gguf", "weight": 2}]))
    assert len(plan.models) == 1
    assert plan.tensors[0].inputs == (Input(0, "token_embd.weight"),) * 2
    assert plan.tensors[0].parameters.weight == (1.0, 2.0)


def test_a_gradient_runs_over_the_layers_and_begins_outside_of_them() -> None:
    plan = planned(merge_of("slerp", ["a.gguf", "b.gguf"], t=[0.2, 0.6]))
    found = parameters_of(plan, "t")
    assert [found[UP.format(layer)] for layer in range(3)] == pytest.approx([0.2, 0.4, 0.6])
    assert [found[name] for name in ("token_embd.weight", "output_norm.weight", "output.weight")] == [0.2] * 3


def test_filters_and_models_have_parameters_of_their_own() -> None:
    own = {"path": "a.gguf", "weight": [{"filter": "mlp", "value": [0, 1]}], "density": 0.5}
    plan = planned(merge_of("ties", [own, "b.gguf"], base="base.gguf", weight=3, density=0.25))
    weight, density = parameters_of(plan, "weight"), parameters_of(plan, "density")
    assert [weight[UP.format(layer)] for layer in range(3)] == [(0.0, 3.0), (0.5, 3.0), (1.0, 3.0)]
    assert weight["blk.1.attn_q.weight"] == weight["output.weight"] == (3.0, 3.0)
    assert set(density.values()) == {(0.5, 0.25)}


@pytest.mark.parametrize(
    ("method", "normalize", "rescale"),
    [("ties", True, None), ("task_arithmetic", False, None), ("dare_ties", False, "l1"), ("della", True, "l1")],
)
def test_flags_have_the_defaults_of_the_method(method: str, normalize: bool, rescale: str | None) -> None:
    more = {"density": 0.5} if method == "della" else {}
    first = planned(merge_of(method, ["a.gguf"], base="base.gguf", **more)).tensors[0].parameters
    assert (first.normalize, first.rescale) == (normalize, rescale)
    changed = merge_of(method, ["a.gguf"], base="base.gguf", normalize=not normalize, **more)
    assert planned(changed).tensors[0].parameters.normalize is not normalize


@pytest.mark.parametrize(("written", "meant"), [(True, "l1"), ("density", "density"), (False, None), ("none", None)])
def test_rescaling_is_a_word_or_a_truth_value(written: object, meant: str | None) -> None:
    plan = planned(merge_of("dare_ties", ["a.gguf"], base="base.gguf", rescale=written))
    assert plan.tensors[0].parameters.rescale == meant


def test_rope_factors_are_copied_from_the_base() -> None:
    config = merge_of("slerp", ["a.gguf", "b.gguf"], t=0.3)
    models = [memory_model(one.path, **{"rope_freqs.weight": np.ones(2, np.float32)}) for one in config.files]
    tensor = plan_merge(config, models).tensors[-1]
    assert (tensor.name, tensor.method, tensor.inputs) == ("rope_freqs.weight", "passthrough", (Input(0, tensor.name),))
    assert (tensor.base, tensor.parameters.scale) == (None, (1.0,))
    over = merge_of("ties", ["a.gguf"], base="base.gguf")
    models = [memory_model(one.path, **{"rope_freqs.weight": np.ones(2, np.float32)}) for one in over.files]
    assert plan_merge(over, models).tensors[-1].inputs == (Input(0, "rope_freqs.weight"),)


def change_model(architecture: str = "llama") -> MemoryModel:
    """What a merge with --task-vector writes."""
    return memory_model("change.gguf", architecture=architecture, more=[(TASK_VECTOR, MetadataValue.bool(True))])


@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gemma3"])
def test_norms_of_gemma_are_merged_without_their_one(architecture: str) -> None:
    config = merge_of("slerp", ["a.gguf", "b.gguf"])
    models = [memory_model(one.path, architecture=architecture) for one in config.files]
    offsets = {one.name: one.offset for one in plan_merge(config, models).tensors}
    norms = {name for name in offsets if "norm" in name}
    assert norms == {*(f"blk.{layer}.attn_norm.weight" for layer in range(3)), "output_norm.weight"}
    assert {name for name, offset in offsets.items() if offset == 1.0} == norms
    assert {one.offset for one in planned(config).tensors} == {0.0}


def test_norms_that_are_copied_or_changes_keep_theirs() -> None:
    copy = merge_of("passthrough", ["a.gguf"])
    models = [memory_model("a.gguf", architecture="gemma")]
    assert {one.offset for one in plan_merge(copy, models).tensors} == {0.0}
    scaled = merge_of("passthrough", ["a.gguf"], scale=2)
    assert {one.offset for one in plan_merge(scaled, models).tensors} == {0.0, 1.0}
    added = merge_of("linear", ["a.gguf", "change.gguf"], normalize=False)
    assert {one.offset for one in plan_merge(added, [*models, change_model("gemma")]).tensors} == {0.0}


def test_changes_are_not_measured_against_a_base_again() -> None:
    config = merge_of("ties", ["a.gguf", "change.gguf"], base="base.gguf")
    models = [memory_model("base.gguf"), memory_model("a.gguf"), change_model()]
    with pytest.raises(ModelError, match="this is a change already, and ties takes the base") as caught:
        plan_merge(config, models)
    assert caught.value.where == "change.gguf"


@pytest.mark.parametrize(("others", "is_change"), [([change_model("llama")], True), ([memory_model("b.gguf")], False)])
def test_what_is_made_of_changes_alone_is_one(others: list[MemoryModel], is_change: bool) -> None:
    config = merge_of("linear", ["change.gguf", "b.gguf"])
    metadata = dict(plan_merge(config, [change_model(), *others]).metadata)
    assert (TASK_VECTOR in metadata) == is_change


def test_a_task_vector_knows_the_base_whatever_the_method() -> None:
    for method in ("ties", "linear", "slerp"):
        models = ["a.gguf", "b.gguf"] if method != "slerp" else ["a.gguf"]
        plan = planned(merge_of(method, models, base="base.gguf", output={"task_vector": True}))
        assert plan.is_task_vector
        assert all(one.base == Input(0, one.name) for one in plan.tensors)
    assert not planned(merge_of("ties", ["a.gguf"], base="base.gguf")).is_task_vector


def test_negative_weights_reach_the_method() -> None:
    plan = planned(merge_of("task_arithmetic", [{"path": "a.gguf", "weight": -0.5}], base="base.gguf"))
    assert plan.tensors[0].parameters.weight == (-0.5,)


def test_filters_that_find_nothing_are_said() -> None:
    own = {"path": "a.gguf", "weight": [{"filter": "experts", "value": 1}, {"value": 0}]}
    plan = planned(merge_of("linear", [own, "b.gguf"], weight=[{"filter": "mlp", "value": 1}]))
    assert plan.notices == ("merge.models[0].weight: no tensor has 'experts' in its name",)


def test_tensors_that_are_missing_or_of_another_shape_are_named() -> None:
    config = merge_of("linear", ["a.gguf", "b.gguf"])
    short = memory_model("b.gguf", **{"output.weight": None})
    with pytest.raises(ModelError, match=r"b.gguf: the tensor output.weight is missing, which a.gguf has"):
        plan_merge(config, [memory_model("a.gguf"), short])
    wide = memory_model("b.gguf", **{"output.weight": np.zeros((9, WIDTH), np.float32)})
    with pytest.raises(ModelError, match=r"output.weight has shape \[9, 4\], in a.gguf \[6, 4\]"):
        plan_merge(config, [memory_model("a.gguf"), wide])
    with pytest.raises(ModelError, match=r"this model has 2 layers, and a.gguf has 3"):
        plan_merge(config, [memory_model("a.gguf"), memory_model("b.gguf", 2)])


def test_probabilities_of_della_have_to_leave_room() -> None:
    wrong = merge_of("della", ["a.gguf"], base="base.gguf", density=[0.5, 0.9], epsilon=0.2)
    with pytest.raises(ConfigError, match=r"merge.epsilon: probabilities from 0.7 to 1.1 for blk.2") as caught:
        planned(wrong)
    assert caught.value.hint == "set merge.epsilon below 0.1, which fits a density of 0.9"
    assert planned(merge_of("della", ["a.gguf"], base="base.gguf", density=1)).tensors


def test_slerp_does_not_go_beyond_its_models() -> None:
    with pytest.raises(ConfigError, match=r"merge.t: is 1.5 for token_embd.weight"):
        planned(merge_of("slerp", ["a.gguf", "b.gguf"], t=[1.5, 0]))
    assert planned(merge_of("nearswap", ["a.gguf", "b.gguf"], t=1.5)).tensors


def test_a_seed_is_for_every_tensor() -> None:
    plan = planned(merge_of("dare_linear", ["a.gguf"], base="base.gguf", seed=7))
    assert {one.parameters.seed for one in plan.tensors} == {7}
    assert replace(plan.tensors[0].parameters, seed=0) != plan.tensors[0].parameters


def test_what_is_not_said_has_the_default_that_the_docs_name() -> None:
    first = planned(merge_of("della", ["a.gguf", "b.gguf"], base="base.gguf")).tensors[0].parameters
    assert (first.weight, first.density, first.gamma, first.epsilon) == ((1, 1), (1, 1), (0.01, 0.01), (0.15, 0.15))
    assert (first.scale, first.lambda_, first.t, first.select_topk) == ((1, 1), 1, 0.5, 1)
    assert (first.flatten, first.row_wise, first.eps, first.seed) == (True, False, 1e-8, 0)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("sce", {"select_topk": 0.25}),
        ("nuslerp", {"flatten": False, "row_wise": True}),
        ("multislerp", {"eps": 1e-6}),
        ("task_arithmetic", {"lambda": 0.5}),
        ("breadcrumbs", {"gamma": 0.25}),
        ("della", {"epsilon": 0.25, "density": 0.5}),
        ("slerp", {"t": 0.25}),
    ],
)
def test_what_is_said_for_all_reaches_every_tensor(method: str, given: dict[str, object]) -> None:
    models = ["a.gguf", "base.gguf"] if method == "slerp" else ["a.gguf", "b.gguf"]
    plan = planned(merge_of(method, models, base="base.gguf", **given))
    for key, value in given.items():
        expected = {value} if key not in ("gamma", "epsilon", "density") else {(value, value)}
        assert set(parameters_of(plan, "lambda_" if key == "lambda" else key).values()) == expected


def test_a_base_that_lacks_a_tensor_is_named() -> None:
    config = merge_of("ties", ["a.gguf"], base="base.gguf")
    with pytest.raises(ModelError, match=r"base.gguf: the tensor output.weight is missing, which a.gguf has") as caught:
        plan_merge(config, [memory_model("base.gguf", **{"output.weight": None}), memory_model("a.gguf")])
    assert caught.value.hint == "only models with the same tensors can be merged"


def test_weights_that_cancel_cannot_be_divided_by() -> None:
    models = [{"path": "a.gguf", "weight": 1}, {"path": "b.gguf", "weight": [{"filter": "mlp", "value": -1}]}]
    with pytest.raises(ConfigError, match=r"the weights for blk\.0\.ffn_up\.weight sum to 0") as caught:
        planned(merge_of("linear", models))
    assert caught.value.where == "merge.weight"
    assert len(planned(merge_of("linear", models, normalize=False)).tensors) > 0


def test_who_drops_at_random_and_keeps_everything_is_told() -> None:
    models = ["a.gguf", {"path": "b.gguf", "density": [1, 0.5]}]
    said = "dare_ties drops nothing: merge.density is 1 (usual are 0.1 to 0.5)"
    assert planned(merge_of("dare_ties", ["a.gguf", "b.gguf"], base="base.gguf")).notices == (said,)
    assert planned(merge_of("dare_ties", models, base="base.gguf")).notices == ()
    assert planned(merge_of("ties", ["a.gguf", "b.gguf"], base="base.gguf")).notices == ()
