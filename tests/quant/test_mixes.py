"""Which type each tensor gets; `tests/oracle/test_mixes_llama_cpp.py` holds the mixes against llama-quantize."""

from __future__ import annotations

import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import ConfigError
from entrenar_core.gguf.keys import FileType
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import MAIN_TYPE, MixRequest, choose_types, file_type, fitting, quantizes, stated_types

MODULES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def model(layers: int = 8, columns: int = 256, *, tied: bool = False) -> dict[str, tuple[tuple[int, ...], str]]:
    matrix = ((4, columns), "F16")
    found = {"token_embd.weight": matrix, "output_norm.weight": ((columns,), "F32")}
    for layer in range(layers):
        found |= {f"blk.{layer}.{module}.weight": matrix for module in MODULES}
        found[f"blk.{layer}.attn_norm.weight"] = ((columns,), "F32")
    return found if tied else {**found, "output.weight": matrix}


def types(request: MixRequest, **options: object) -> dict[str, str]:
    return {name: one.type_name for name, one in choose_types(model(**options), request).items()}  # type: ignore[arg-type]


def test_the_mix_of_four_bits_gives_more_to_values_downs_and_the_output() -> None:
    found = types(MixRequest("q4_k_m"))
    assert found["blk.0.attn_v.weight"] == found["blk.0.ffn_down.weight"] == found["output.weight"] == "Q6_K"
    assert found["blk.1.attn_v.weight"] == found["token_embd.weight"] == found["blk.0.attn_q.weight"] == "Q4_K"
    assert found["blk.0.attn_norm.weight"] == "F32"


def test_a_pure_file_has_one_type_for_all_matrices() -> None:
    assert set(types(MixRequest("q4_k_m", pure=True)).values()) == {"Q4_K", "F32"}


def test_tied_embeddings_are_treated_as_the_output() -> None:
    assert types(MixRequest("q4_0"), tied=True)["token_embd.weight"] == "Q6_K"
    assert types(MixRequest("q4_0", output_type="q8_0"), tied=True)["token_embd.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("mix", "columns", "expected"),
    [
        ("q4_k_m", 256, "Q6_K"),
        ("q8_0", 256, "Q8_0"),
        ("q4_0", 288, "Q8_0"),
        ("q5_k_s", 288, "Q8_0"),
        ("f16", 256, "F16"),
    ],
)
def test_the_output_has_six_bits_or_eight_where_six_do_not_fit(mix: str, columns: int, expected: str) -> None:
    assert types(MixRequest(mix), columns=columns)["output.weight"] == expected


def test_the_output_of_falcon_has_eight_bits() -> None:
    assert types(MixRequest("q4_k_m", model=ModelFacts("falcon")))["output.weight"] == "Q8_0"


def test_layers_that_are_not_known_are_counted() -> None:
    """32 down projections in all: of those of an unknown model the first four count as the first eighth."""
    tensors = model(16) | {f"blk.{layer}.ffn_down_shexp.weight": ((4, 256), "F16") for layer in range(16)}
    found = choose_types(tensors, MixRequest("q4_k_s"))
    raised = [name for name, one in found.items() if "ffn_down" in name and one.type_name == "Q5_K"]
    assert sorted(raised) == [f"blk.{layer}.ffn_down{end}.weight" for layer in (0, 1) for end in ("", "_shexp")]


def test_rows_are_the_last_axis_of_a_stack() -> None:
    tensors = {"blk.0.ffn_up_exps.weight": ((2, 4, 256), "F16"), "blk.1.ffn_up_exps.weight": ((256, 256, 32), "F16")}
    request = MixRequest("q6_k", tensor_types=(("ffn_up", "q6_k"),))
    for found in (choose_types(tensors, MixRequest("q6_k")), stated_types(tensors, request)):
        assert [one.type_name for one in found.values()] == ["Q6_K", "Q8_0"]
        assert [one.wanted for one in found.values()] == ["Q6_K", "Q6_K"]


def test_a_type_for_embeddings_goes_before_patterns_and_holds_for_those_of_layers() -> None:
    tensors = model(tied=True) | {"per_layer_token_embd.weight": ((4, 256), "F16")}
    request = MixRequest("q4_0", embedding_type="q8_0", tensor_types=(("^token_embd", "q5_0"),))
    found = choose_types(tensors, request)
    assert found["token_embd.weight"].type_name == found["per_layer_token_embd.weight"].type_name == "Q8_0"
    by_pattern = MixRequest("q4_0", embedding_type="q8_0", tensor_types=(("per_layer", "q5_0"),))
    assert choose_types(tensors, by_pattern)["per_layer_token_embd.weight"].type_name == "Q5_0"


def test_a_type_for_the_output_holds_for_nothing_else() -> None:
    assert set(stated_types(model(), MixRequest("q4_0", output_type="q8_0"))) == {"output.weight"}
    assert set(stated_types(model(tied=True), MixRequest("q4_0", output_type="q8_0"))) == {"token_embd.weight"}
    assert set(stated_types(model(), MixRequest("q4_0", embedding_type="q8_0"))) == {"token_embd.weight"}
    assert stated_types(model(), MixRequest("q4_0")) == {}


def test_types_are_stated_for_matrices_alone() -> None:
    found = stated_types(model(1), MixRequest("q4_0", tensor_types=(("attn", "q8_0"),)))
    assert {name: one.type_name for name, one in found.items()} == {
        f"blk.0.attn_{part}.weight": "Q8_0" for part in ("q", "k", "v", "output")
    }


def test_stated_types_go_before_the_mix() -> None:
    request = MixRequest(
        "q4_0", output_type="f16", embedding_type="q8_0", tensor_types=(("attn_[kv]", "q5_0"), ("attn_k", "q8_0"))
    )
    found = types(request)
    assert found["output.weight"] == "F16"
    assert found["token_embd.weight"] == "Q8_0"
    assert found["blk.3.attn_k.weight"] == found["blk.3.attn_v.weight"] == "Q5_0"  # the first pattern counts
    assert {name for name in stated_types(model(), request) if "blk" not in name} == {
        "output.weight",
        "token_embd.weight",
    }


def test_a_pattern_holds_for_files_of_floats_too() -> None:
    assert types(MixRequest("f16", tensor_types=(("ffn_down", "f32"),)))["blk.0.ffn_down.weight"] == "F32"


@pytest.mark.parametrize(
    ("wanted", "row", "got"),
    [("Q4_K", 256, "Q4_K"), ("Q4_K", 288, "Q5_0"), ("Q6_K", 32, "Q8_0"), ("IQ4_XS", 64, "IQ4_NL"), ("Q2_K", 40, "F16")],
)
def test_rows_that_do_not_divide_fall_back(wanted: str, row: int, got: str) -> None:
    found = fitting(wanted, row)
    assert (found.type_name, found.wanted, found.fell_back) == (got, wanted, got != wanted)


def test_what_falls_back_is_what_was_asked_for() -> None:
    chosen = choose_types(model(columns=288), MixRequest("q5_k_m"))
    assert chosen["blk.1.attn_q.weight"].wanted == "Q5_K"
    assert chosen["blk.1.attn_q.weight"].type_name == "Q5_1"


def test_the_order_of_the_file_changes_nothing() -> None:
    forward, request = model(layers=12), MixRequest("q4_k_m")
    backward = dict(reversed(forward.items()))
    assert choose_types(backward, request) == choose_types(forward, request)
    assert list(choose_types(backward, request)) == list(backward)


@pytest.mark.parametrize(
    ("name", "shape", "is_matrix"),
    [
        ("blk.0.attn_q.weight", (4, 4), True),
        ("blk.0.attn_q.weight", (2, 4), True),
        ("blk.0.ffn_up_exps.weight", (2, 4, 4), True),
        ("blk.0.attn_q.weight", (1, 4), False),
        ("blk.0.attn_q.bias", (4, 4), False),
        ("blk.0.attn_norm.weight", (4, 4), False),
        ("blk.0.ffn_gate_inp.weight", (4, 4), False),
        ("rope_freqs.weight", (4,), False),
    ],
)
def test_only_matrices_of_products_are_changed(name: str, shape: tuple[int, ...], is_matrix: bool) -> None:
    assert quantizes(name, shape) == is_matrix


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown type 'q9_9'") as unknown:
        choose_types(model(), MixRequest("q9_9"))
    assert unknown.value.hint == f"known types: {', '.join(MAIN_TYPE)}"
    for pattern, message in (("attn_(", "is no regular expression"), ("atn_q", "'atn_q' finds no matrix")):
        with pytest.raises(ConfigError, match=message) as wrong:
            choose_types(model(), MixRequest("q4_0", tensor_types=((pattern, "q8_0"),)))
        assert wrong.value.where == "quantize.tensor_types"
    assert wrong.value.hint == "names are such as blk.0.attn_v.weight"


def test_a_pattern_that_finds_only_vectors_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="finds no matrix"):
        choose_types(model(), MixRequest("q4_0", tensor_types=(("attn_norm", "q8_0"),)))


def test_every_mix_has_a_type_and_a_number() -> None:
    assert set(MAIN_TYPE.values()) <= TYPE_BY_NAME.keys()
    assert file_type("q4_k_m") == FileType.Q4_K_M
    assert all(file_type(mix) is not None for mix in MAIN_TYPE)
    assert file_type("") is None


def test_heads_that_are_not_known_group_nothing() -> None:
    assert ModelFacts(heads=8).query_groups == 0
    assert ModelFacts(heads=8, kv_heads=2).query_groups == 4
    assert not ModelFacts("llama", layers=80, heads=8, kv_heads=8).is_70b
    assert ModelFacts("llama", layers=80, heads=8, kv_heads=1).is_70b
