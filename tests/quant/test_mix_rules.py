"""What a mix gives to matrices of each layer; `tests/oracle/test_mixes_llama_cpp.py` has it from llama-quantize."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import MAIN_TYPE, MixRequest, choose_types

LAYERS = 16
ALL = list(range(LAYERS))
SENSITIVE = [0, 1, 4, 7, 10, 13, 14, 15]
"""Of 16: the first and the last two, and every third between."""
BETWEEN = [layer for layer in ALL if layer not in SENSITIVE]

GROUPED = ModelFacts("llama", LAYERS, heads=8, kv_heads=2)
UNGROUPED = ModelFacts("llama", LAYERS, heads=8, kv_heads=4)
FALCON = ModelFacts("falcon", LAYERS, heads=8, kv_heads=1)
EIGHT_EXPERTS = ModelFacts("llama", LAYERS, heads=8, kv_heads=2, experts=8)


def raised(
    mix: str,
    module: str,
    model: ModelFacts = UNGROUPED,
    *,
    beside: tuple[str, ...] = (),
    has_importance: bool = False,
) -> Mapping[str, list[int]]:
    """The layers in which matrices of `module` have another type than the mix's main one, by that type.

    beside: other modules of each layer. The file has its layers in an order of its own.
    """
    names = [f"blk.{layer}.{one}.weight" for layer in reversed(range(model.layers)) for one in (module, *beside)]
    request = MixRequest(mix, model=model, has_importance=has_importance)
    chosen = choose_types({name: ((4, 256), "F16") for name in names}, request)
    found: dict[str, list[int]] = {}
    for layer in range(model.layers):
        type_name = chosen[f"blk.{layer}.{module}.weight"].type_name
        if type_name != MAIN_TYPE[mix]:
            found.setdefault(type_name, []).append(layer)
    return found


@pytest.mark.parametrize("module", ["attn_v", "attn_qkv", "attn_kv_b"])
@pytest.mark.parametrize(
    ("mix", "model", "expected"),
    [
        ("q2_k", UNGROUPED, {"Q3_K": ALL}),
        ("q2_k", GROUPED, {"Q4_K": ALL}),
        ("q2_k_s", UNGROUPED, {}),
        ("q2_k_s", GROUPED, {"Q4_K": ALL}),
        ("q3_k_s", GROUPED, {}),
        ("q3_k_m", GROUPED, {"Q5_K": [0, 1], "Q4_K": ALL[2:]}),
        ("q3_k_l", GROUPED, {"Q5_K": ALL}),
        ("q4_k_s", GROUPED, {"Q5_K": [0, 1, 2, 3]}),
        ("q4_k_m", GROUPED, {"Q6_K": SENSITIVE}),
        ("q5_k_s", GROUPED, {}),
        ("q5_k_m", GROUPED, {"Q6_K": SENSITIVE}),
        ("iq4_nl", GROUPED, {"Q5_K": ALL}),
        ("iq4_xs", GROUPED, {"Q5_K": ALL}),
        ("iq4_xs", UNGROUPED, {}),
        ("q4_0", GROUPED, {}),
        ("q6_k", GROUPED, {}),
    ],
)
def test_value_projections(module: str, mix: str, model: ModelFacts, expected: Mapping[str, list[int]]) -> None:
    assert raised(mix, module, model) == expected


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("q2_k", {"Q3_K": ALL}),
        ("q2_k_s", {"Q4_K": [0, 1]}),
        ("q3_k_s", {}),
        ("q3_k_m", {"Q5_K": [0], "Q4_K": ALL[1:]}),
        ("q3_k_l", {"Q5_K": ALL}),
        ("q4_k_s", {"Q5_K": [0, 1]}),
        ("q4_k_m", {"Q6_K": SENSITIVE}),
        ("q5_k_m", {"Q6_K": SENSITIVE}),
        ("q5_k_s", {}),
        ("iq4_nl", {"Q5_K": [0, 1]}),
        ("iq4_xs", {"Q5_K": [0, 1]}),
        ("q4_0", {}),
        ("q5_0", {}),
    ],
)
def test_down_projections(mix: str, expected: Mapping[str, list[int]]) -> None:
    assert raised(mix, "ffn_down") == expected


@pytest.mark.parametrize(
    ("mix", "expected"),
    [("q4_0", {"Q4_1": [0, 1]}), ("q5_0", {"Q5_1": [0, 1]}), ("iq4_nl", {}), ("iq4_xs", {}), ("q4_1", {})],
)
def test_down_projections_with_an_importance(mix: str, expected: Mapping[str, list[int]]) -> None:
    assert raised(mix, "ffn_down", has_importance=True) == expected


@pytest.mark.parametrize(
    ("mix", "expected"),
    [("q2_k", {"Q3_K": ALL}), ("q3_k_s", {}), ("q3_k_m", {"Q4_K": ALL}), ("q3_k_l", {"Q5_K": ALL}), ("q4_k_m", {})],
)
def test_output_projections(mix: str, expected: Mapping[str, list[int]]) -> None:
    assert raised(mix, "attn_output") == expected


@pytest.mark.parametrize("module", ["attn_q", "attn_k", "ffn_gate", "ffn_up"])
@pytest.mark.parametrize("mix", ["q2_k", "q3_k_l", "q4_k_m", "q5_k_m"])
def test_other_projections_have_the_main_type(module: str, mix: str) -> None:
    assert raised(mix, module, GROUPED) == {}


@pytest.mark.parametrize(
    ("mix", "module", "expected"),
    [
        ("q3_k_m", "ffn_down", {"Q5_K": [0], "Q4_K": SENSITIVE[1:]}),
        ("q3_k_l", "ffn_down", {"Q4_K": ALL}),
        ("q4_k_s", "ffn_down", {}),
        ("q4_k_m", "ffn_down", {"Q6_K": [0], "Q5_K": SENSITIVE[1:]}),
        ("q5_k_m", "ffn_down", {"Q6_K": SENSITIVE}),
        ("q2_k", "attn_output", {}),
        ("q3_k_m", "attn_output", {}),
        ("q3_k_l", "attn_output", {"Q4_K": ALL}),
    ],
)
def test_falcon_has_rules_of_its_own(mix: str, module: str, expected: Mapping[str, list[int]]) -> None:
    assert raised(mix, module, FALCON) == expected


@pytest.mark.parametrize(
    ("mix", "module", "expected"),
    [
        ("q4_k_m", "attn_v", {"Q8_0": ALL}),
        ("q4_k_m", "attn_k", {"Q8_0": ALL}),
        ("q2_k", "attn_output", {"Q5_K": ALL}),
        ("q3_k_m", "attn_output", {"Q5_K": ALL}),
        ("q4_k_m", "attn_output", {"Q5_K": ALL}),
        ("iq4_xs", "attn_output", {"Q5_K": ALL}),
        ("q3_k_l", "attn_output", {}),
        ("q6_k", "attn_output", {}),
    ],
)
def test_eight_experts_keep_their_small_matrices_large(
    mix: str, module: str, expected: Mapping[str, list[int]]
) -> None:
    assert raised(mix, module, EIGHT_EXPERTS) == expected


def test_four_experts_are_nothing_special() -> None:
    four = ModelFacts("llama", LAYERS, heads=8, kv_heads=2, experts=4)
    assert raised("q4_k_m", "attn_k", four) == {}
    assert raised("q4_k_m", "attn_v", four) == {"Q6_K": SENSITIVE}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("q3_k_s", {"Q5_K": list(range(80))}),
        ("q4_k_s", {"Q5_K": list(range(80))}),
        ("q5_k_s", {}),
        ("q6_k", {}),
        ("q8_0", {}),
    ],
)
def test_a_model_of_70b_has_small_value_projections(mix: str, expected: Mapping[str, list[int]]) -> None:
    large = ModelFacts("llama", layers=80, heads=64, kv_heads=8)
    assert raised(mix, "attn_v", large) == expected
    assert raised(mix, "attn_q", large) == {}


def test_a_model_of_70b_keeps_what_is_larger_already() -> None:
    found = raised("q4_k_m", "attn_v", ModelFacts("llama", layers=80, heads=64, kv_heads=8))
    assert set(found) == {"Q5_K", "Q6_K"}
    assert found["Q6_K"] == [layer for layer in range(80) if layer < 10 or layer >= 70 or layer % 3 == 0]


@pytest.mark.parametrize("architecture", ["llama", "deci", "qwen2", "olmo"])
def test_80_layers_make_a_70b(architecture: str) -> None:
    assert ModelFacts(architecture, layers=80, heads=64, kv_heads=8).is_70b
    assert not ModelFacts(architecture, layers=79, heads=64, kv_heads=8).is_70b


def test_other_architectures_have_no_70b() -> None:
    assert not ModelFacts("gpt2", layers=80, heads=64, kv_heads=8).is_70b
    assert not ModelFacts("", layers=0).is_70b
    assert ModelFacts("qwen2", layers=80, heads=8, kv_heads=8).is_70b


def test_four_query_heads_for_each_value_head_make_a_group() -> None:
    for kv_heads, expected in ((2, "Q4_K"), (3, "Q3_K"), (0, "Q3_K")):
        model = ModelFacts("llama", LAYERS, heads=8, kv_heads=kv_heads)
        assert raised("q2_k", "attn_v", model) == {expected: ALL}


def test_down_projections_of_experts_count_by_their_layer() -> None:
    two = ModelFacts("llama", LAYERS, experts=2)
    for module, other in (("ffn_down_exps", "ffn_down_shexp"), ("ffn_down_shexp", "ffn_down_exps")):
        assert raised("q4_k_m", module, two, beside=(other,)) == {"Q6_K": SENSITIVE}
    assert raised("q4_k_m", "attn_v", two, beside=("attn_kv_b",)) == raised(
        "q4_k_m", "attn_v", UNGROUPED, beside=("attn_kv_b",)
    )


@pytest.mark.parametrize("experts", [0, 1])
def test_two_down_projections_of_a_layer_count_as_two_without_experts(experts: int) -> None:
    """Beside the number of layers, as llama-quantize has it: from the seventh layer on all are among the last."""
    model = ModelFacts("llama", LAYERS, experts=experts)
    assert raised("q4_k_m", "ffn_down", model, beside=("ffn_down_shexp",)) == {"Q6_K": [0, 2, 5, *range(7, 16)]}
