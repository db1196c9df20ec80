"""Which models can be merged: what makes another computation is named, harmless differences are said."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.merge.fit import ModelFacts, check_fit, facts_of, facts_of_file
from entrenar_core.merge.models import open_model
from tests.stages.tiny_base import base_spec, write_base

SHAPES = {"token_embd.weight": (10, 8), "blk.0.attn_q.weight": (8, 8), "blk.1.attn_q.weight": (8, 8)}
SETTINGS: dict[str, object] = {
    "block_count": 2,
    "embedding_length": 8,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "rope.freq_base": 10000.0,
}


def facts(path: str = "m.gguf", **changes: Any) -> ModelFacts:
    known = {"architecture": "llama", "shapes": SHAPES, "settings": SETTINGS, "rope_factors": None}
    return ModelFacts(path, **{**known, **changes})


def settings(**changes: object) -> dict[str, object]:
    return {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}


def refusal(model: ModelFacts, base: ModelFacts, **options: bool) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_fit(model, base, **options)
    assert caught.value.where == model.path
    return caught.value


def test_a_model_fits_itself() -> None:
    assert check_fit(facts(), facts("base.gguf")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "qwen2"}, "the architecture is qwen2, that of base.gguf is llama"),
        (
            {"shapes": {**SHAPES, "blk.1.attn_q.weight": (16, 8)}},
            "the tensor blk.1.attn_q.weight has shape [16, 8], in base.gguf [8, 8]",
        ),
        (
            {"shapes": {name: SHAPES[name] for name in list(SHAPES)[:2]}},
            "the tensor blk.1.attn_q.weight is missing, which base.gguf has",
        ),
        ({"shapes": {**SHAPES, "blk.2.attn_q.weight": (8, 8)}}, "base.gguf has no tensor blk.2.attn_q.weight"),
        (
            {"settings": settings(attention__head_count=4, attention__head_count_kv=1)},
            "llama.attention.head_count is 4, in base.gguf 2",
        ),
        ({"settings": settings(attention__head_count_kv=2)}, "llama.attention.head_count_kv is 2, in base.gguf 1"),
        ({"settings": settings(attention__key_length=2)}, "llama.attention.key_length is 2, in base.gguf 4"),
        ({"settings": settings(rope__freq_base=5e5)}, "llama.rope.freq_base is 500000.0, in base.gguf 10000.0"),
        ({"settings": settings(rope__dimension_count=2)}, "llama.rope.dimension_count is 2, in base.gguf 4"),
        (
            {"settings": settings(rope__scaling__type="linear", rope__scaling__factor=2.0)},
            "llama.rope.scaling.factor is 2.0, in base.gguf 1.0",
        ),
        (
            {"settings": settings(rope__scaling__type="yarn", rope__scaling__factor=1.0)},
            "llama.rope.scaling.type is yarn, in base.gguf none",
        ),
        (
            {"settings": settings(final_logit_softcapping=30.0)},
            "llama.final_logit_softcapping is 30.0, in base.gguf not given",
        ),
        ({"settings": settings(expert_count=8)}, "llama.expert_count is 8, in base.gguf 0"),
    ],
)  # fmt: skip
def test_what_makes_another_model_is_named(changes: dict[str, Any], message: str) -> None:
    assert refusal(facts(**changes), facts("base.gguf")).message == message


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.key_length": 4, "attention.value_length": 4, "rope.dimension_count": 4},
        {"rope.scaling.type": "none"},
        {"rope.scaling.factor": 1.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 0.0},
        {"rope.scale_linear": 1.0},
        {"expert_count": 0, "rope.scaling.attn_factor": 1.0},
        {"rope.freq_base": float(np.float32(10000.001))},
    ],
)
def test_a_file_that_states_what_another_takes_for_granted_fits(changes: dict[str, object]) -> None:
    assert check_fit(facts(settings={**SETTINGS, **changes}), facts("base.gguf")) == []
    assert check_fit(facts("base.gguf"), facts(settings={**SETTINGS, **changes})) == []


def test_a_missing_frequency_base_is_ten_thousand() -> None:
    without = {key: value for key, value in SETTINGS.items() if key != "rope.freq_base"}
    assert check_fit(facts(settings=without), facts()) == []
    assert refusal(facts(settings=without), facts(settings=settings(rope__freq_base=5e5))).message.startswith(
        "llama.rope.freq_base is 10000.0"
    )


def test_values_that_differ_by_layer_are_compared_as_a_whole() -> None:
    model = facts(settings=settings(attention__head_count=np.array([2, 4])))
    assert check_fit(model, model) == []
    other = facts(settings=settings(attention__head_count=np.array([2, 2])))
    assert "is (2, 4), in m.gguf (2, 2)" in refusal(model, other).message


def test_what_does_not_matter_is_said() -> None:
    longer = facts(settings=settings(context_length=4096, vocab_size=10))
    base = facts("base.gguf", settings=settings(context_length=2048, vocab_size=12))
    assert check_fit(longer, base) == [
        "m.gguf: llama.context_length is 4096, that of base.gguf is 2048, which the result has"
    ]
    assert check_fit(base, longer)[0].endswith("is 2048, that of m.gguf is 4096, which the result has")


def test_another_number_of_tokens_comes_with_the_way_out() -> None:
    error = refusal(facts(shapes={**SHAPES, "token_embd.weight": (12, 8)}), facts("base.gguf"))
    assert error.message == "the tensor token_embd.weight has shape [12, 8], in base.gguf [10, 8]"
    assert error.hint is not None
    assert "set merge.tokenizer: union, or base" in error.hint
    wider = refusal(facts(shapes={**SHAPES, "token_embd.weight": (12, 16)}), facts("base.gguf"))
    assert wider.hint == "only models of the shape of base.gguf can be merged with it"


def test_rows_of_tokens_may_differ_where_they_are_mapped() -> None:
    longer = facts(shapes={**SHAPES, "token_embd.weight": (12, 8)})
    assert check_fit(longer, facts("base.gguf"), same_tokens=False) == []
    wider = facts(shapes={**SHAPES, "token_embd.weight": (10, 16)})
    said = "the tensor token_embd.weight has shape [10, 16], in base.gguf [10, 8]"
    assert refusal(wider, facts("base.gguf"), same_tokens=False).message == said


def test_an_output_matrix_of_its_own_in_one_model_only_is_explained() -> None:
    own = facts(shapes={**SHAPES, "output.weight": (10, 8)})
    assert refusal(own, facts()).message == "m.gguf has no tensor output.weight"
    assert "embedding as the output matrix" in str(refusal(facts(), own).hint)


def test_models_of_another_depth_fit_where_layers_are_picked() -> None:
    deeper = facts(shapes={**SHAPES, "blk.2.attn_q.weight": (8, 8)}, settings=settings(block_count=3))
    assert check_fit(deeper, facts(), same_depth=False) == []
    assert check_fit(facts(), deeper, same_depth=False) == []
    wide = facts(shapes={name: (16, 8) if "blk" in name else shape for name, shape in SHAPES.items()})
    assert "blk.*.attn_q.weight has shape [16, 8]" in refusal(wide, facts(), same_depth=False).message


def test_rope_factors_are_compared(tmp_path: Path) -> None:
    factors = np.array([1, 1, 4, 8], np.float32)
    plain = write_base(tmp_path / "plain.gguf")
    scaled = write_base(tmp_path / "scaled.gguf", replaced={"rope_freqs.weight": factors})
    other = write_base(tmp_path / "other.gguf", replaced={"rope_freqs.weight": factors + np.array([0, 0, 1, 0], "f4")})
    known = {}
    for path in (plain, scaled, other):
        with closing(open_model(path)) as model:
            known[path] = facts_of(model)
    assert check_fit(known[scaled], known[scaled]) == []
    assert refusal(known[scaled], known[other]).message == f"rope_freqs.weight[2] is 4.0, in {other} 5.0"
    assert refusal(known[scaled], known[plain]).message == f"{plain} has no tensor rope_freqs.weight"
    assert (
        refusal(known[plain], known[scaled]).message == f"the tensor rope_freqs.weight is missing, which {scaled} has"
    )


def test_a_file_and_an_opened_model_have_the_same_facts(tmp_path: Path) -> None:
    path = write_base(tmp_path / "m.gguf", replaced={"rope_freqs.weight": np.ones(4, np.float32)})
    with closing(open_model(path)) as model, GGUFFile.open(path) as file:
        one, other = facts_of(model), facts_of_file(file)
    assert (one.path, one.architecture, one.shapes, one.settings) == (
        other.path, other.architecture, other.shapes, other.settings,
    )  # fmt: skip
    assert np.array_equal(one.rope_factors, other.rope_factors)  # type: ignore[arg-type]
    assert one.settings["embedding_length"] == base_spec().hidden_size


def test_keys_of_another_architecture_do_not_count(tmp_path: Path) -> None:
    path = write_base(tmp_path / "m.gguf", extra=[("qwen2.rope.freq_base", MetadataValue.float32(1.0))])
    with GGUFFile.open(path) as file:
        assert "rope.freq_base" in facts_of_file(file).settings
        assert facts_of_file(file).settings["rope.freq_base"] == 100.0
