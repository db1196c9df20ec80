"""Frankenmerges: layers of several models, one slice after another."""

from __future__ import annotations

import re
from typing import Any

import pytest

from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.merge.plan import Input, MergePlan, plan_merge
from tests.merge.memory_models import memory_model, merge_of, opened


def source(path: str, first: int, end: int, **more: Any) -> dict[str, Any]:
    return {"path": path, "layers": [first, end], **more}


def stacked(*parts: Any, method: str = "passthrough", **more: Any) -> Any:
    slices = [part if "sources" in part else {"sources": [part]} for part in parts]
    return merge_of(method, None, slices=slices, **more)


def inputs_of(plan: MergePlan) -> dict[str, tuple[Input, ...]]:
    return {one.name: one.inputs for one in plan.tensors}


def test_layers_are_stacked_and_may_overlap_and_repeat() -> None:
    config = stacked(source("a.gguf", 0, 2), source("b.gguf", 1, 3), source("a.gguf", 1, 2))
    plan = plan_merge(config, opened(config))
    found = inputs_of(plan)
    origins = [(0, 0), (0, 1), (1, 1), (1, 2), (0, 1)]
    for layer, (model, old) in enumerate(origins):
        assert found[f"blk.{layer}.attn_q.weight"] == (Input(model, f"blk.{old}.attn_q.weight"),)
    assert len(plan.tensors) == 3 * len(origins) + 3
    assert list(found)[:2] == ["token_embd.weight", "blk.0.attn_norm.weight"]
    assert list(found)[-2:] == ["output_norm.weight", "output.weight"]


def test_what_is_before_the_layers_is_of_the_first_slice_and_the_head_of_the_last() -> None:
    config = stacked(source("a.gguf", 0, 1), source("b.gguf", 0, 1))
    found = inputs_of(plan_merge(config, opened(config)))
    assert found["token_embd.weight"] == (Input(0, "token_embd.weight"),)
    assert found["output_norm.weight"] == (Input(1, "output_norm.weight"),)
    assert found["output.weight"] == (Input(1, "output.weight"),)


def test_models_of_different_depths_give_layers() -> None:
    config = stacked(source("a.gguf", 0, 2), source("b.gguf", 4, 5))
    assert "blk.2.ffn_up.weight" in inputs_of(plan_merge(config, opened(config, a=2, b=5)))


def test_a_gradient_runs_over_the_layers_of_its_slice() -> None:
    both = {"sources": [source("a.gguf", 0, 3), source("b.gguf", 0, 3)], "t": [0, 1]}
    one = {"sources": [source("a.gguf", 2, 3), source("b.gguf", 2, 3)], "t": [0, 0.5]}
    config = stacked(both, one, method="slerp")
    found = {tensor.name: tensor.parameters.t for tensor in plan_merge(config, opened(config)).tensors}
    assert [found[f"blk.{layer}.attn_q.weight"] for layer in range(4)] == [0, 0.5, 1, 0.5]
    assert (found["token_embd.weight"], found["output.weight"]) == (0, 0)


def test_parameters_are_looked_up_at_the_source_the_slice_and_the_merge() -> None:
    parts = [
        {"sources": [source("a.gguf", 0, 1, weight=1), source("b.gguf", 0, 1)], "weight": 2},
        {"sources": [source("a.gguf", 1, 2), source("b.gguf", 1, 2)]},
    ]
    config = stacked(*parts, method="linear", weight=3)
    found = {tensor.name: tensor.parameters.weight for tensor in plan_merge(config, opened(config)).tensors}
    assert (found["blk.0.attn_q.weight"], found["blk.1.attn_q.weight"]) == ((1.0, 2.0), (3.0, 3.0))


def test_the_base_has_the_layers_that_are_named_or_those_of_the_others() -> None:
    named = {"sources": [source("a.gguf", 0, 2), source("base.gguf", 1, 3)]}
    config = stacked(named, method="task_arithmetic", base="base.gguf")
    tensor = next(one for one in plan_merge(config, opened(config)).tensors if one.name == "blk.1.attn_q.weight")
    assert (tensor.inputs, tensor.base) == ((Input(1, "blk.1.attn_q.weight"),), Input(0, "blk.2.attn_q.weight"))
    config = stacked(source("a.gguf", 1, 2), method="task_arithmetic", base="base.gguf")
    tensor = next(one for one in plan_merge(config, opened(config)).tensors if one.name == "blk.0.attn_q.weight")
    assert tensor.base == Input(0, "blk.1.attn_q.weight")
    unclear = {"sources": [source("a.gguf", 0, 1), source("b.gguf", 1, 2)]}
    config = stacked(unclear, method="ties", base="base.gguf")
    with pytest.raises(ConfigError, match=r"merge.slices\[0\]: it is not clear which layers of the base"):
        plan_merge(config, opened(config))


def test_slices_of_slerp_begin_at_the_base() -> None:
    part = {"sources": [source("a.gguf", 0, 3), source("base.gguf", 0, 3)]}
    config = stacked(part, method="slerp", base="base.gguf", t=0.3)
    plan = plan_merge(config, opened(config))
    assert plan.tensors[1].inputs == (Input(0, "blk.0.attn_norm.weight"), Input(1, "blk.0.attn_norm.weight"))


def test_layers_beyond_the_last_are_refused() -> None:
    config = stacked(source("a.gguf", 0, 2), source("b.gguf", 1, 4))
    message = "merge.slices[1].sources[0].layers: there are no layers [1, 4] in b.gguf: it has 3"
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_merge(config, opened(config))


def test_the_metadata_fit_the_layers() -> None:
    def per_layer(*numbers: int) -> list[tuple[str, MetadataValue]]:
        return [
            ("llama.attention.head_count_kv", MetadataValue.array(ValueType.INT32, numbers)),
            ("llama.rope.dimension_sections", MetadataValue.array(ValueType.INT32, [1, 2, 3])),
            ("general.size_label", MetadataValue.string("1B")),
        ]

    config = stacked(source("a.gguf", 1, 3), source("b.gguf", 0, 2), output={"path": "x/tall.gguf"})
    models = [memory_model("a.gguf", more=per_layer(1, 2, 3)), memory_model("b.gguf", more=per_layer(4, 5, 6))]
    found = dict(plan_merge(config, models).metadata)
    assert found["llama.block_count"].value == 4
    assert found["llama.attention.head_count_kv"].value.tolist() == [2, 3, 4, 5]
    assert found["llama.rope.dimension_sections"].value.tolist() == [1, 2, 3]
    assert found["general.name"].value == "tall"
    assert "general.size_label" not in found
    same = [models[0], memory_model("b.gguf", more=[("llama.attention.head_count_kv", MetadataValue.uint32(9))])]
    assert dict(plan_merge(config, same).metadata)["llama.attention.head_count_kv"].value.tolist() == [2, 3, 9, 9]
    with pytest.raises(ModelError, match=r"b.gguf: llama.attention.head_count_kv has no value for each layer"):
        plan_merge(config, [models[0], memory_model("b.gguf")])
