"""The quantize section: which type, stage and groups of scales its keys mean together."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from entrenar_core.config.load import config_from_text
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.quantize import FLOATS, MixName, Quantize
from entrenar_core.config.resolved import resolved_yaml

HEAD = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"


def read(text: str) -> Quantize:
    section = config_from_text(HEAD + text, "t.yaml").quantize
    assert section is not None
    return section


def problem(text: str) -> str:
    with pytest.raises(ConfigProblems) as caught:
        config_from_text(HEAD + text, "t.yaml")
    [only] = caught.value.problems
    return str(only)


@pytest.mark.parametrize(
    ("keys", "mix"),
    [
        ("bits: 4", "q4_0"),
        ("bits: 4, symmetric: true", "q4_0"),
        ("bits: 4, symmetric: false", "q4_1"),
        ("bits: 8", "q8_0"),
        ("type: Q8_0, granularity: Block", "q8_0"),
        ("type: Q4_K_M", "q4_k_m"),
        ("type: q4_k", "q4_k_m"),
        ("type: Q5_K, symmetric: false", "q5_k_m"),
        ("type: q3_k", "q3_k_m"),
    ],
)
def test_bits_and_names_of_llama_quantize_stand_for_a_mix(keys: str, mix: str) -> None:
    assert read(f"quantize: {{{keys}}}").mix == mix


@pytest.mark.parametrize("mix", sorted(get_args(MixName)))
def test_every_mix_can_be_written(mix: str) -> None:
    assert read(f"quantize: {{type: {mix}}}").stage == "output"


@pytest.mark.parametrize("mix", sorted(set(get_args(MixName)) - set(FLOATS)))
@pytest.mark.parametrize("stage", ["base", "qat"])
def test_every_mix_of_few_bits_can_be_trained_with(mix: str, stage: str) -> None:
    assert read(f"lora: {{}}\nquantize: {{type: {mix}, stage: {stage}}}").mix == mix


@pytest.mark.parametrize("mix", FLOATS)
@pytest.mark.parametrize("stage", ["base", "qat"])
def test_floating_types_are_for_what_is_written(mix: str, stage: str) -> None:
    assert "is no type of few bits" in problem(f"lora: {{}}\nquantize: {{type: {mix}, stage: {stage}}}")


def test_the_stage_is_that_of_the_frozen_base_with_lora_and_else_of_the_output() -> None:
    assert read("lora: {}\nquantize: {bits: 4}").stage == "base"
    assert read("quantize: {bits: 4}").stage == "output"
    assert "base needs a lora section" in problem("quantize: {bits: 4, stage: base}")


@pytest.mark.parametrize(
    ("keys", "group"),
    [
        ("bits: 4", "block"),
        ("bits: 4, per_channel: true", "per_channel"),
        ("bits: 4, per_channel: false", "block"),
        ("bits: 8, granularity: PER_TENSOR", "per_tensor"),
        ("type: q4_1, granularity: per_channel", "per_channel"),
    ],
)
def test_a_scale_is_shared_by_a_block_a_row_or_the_tensor(keys: str, group: str) -> None:
    assert read(f"quantize: {{{keys}}}").scale_group == group


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("symmetric: true", "bits: required key is missing; set bits to 4"),
        ("bits: 4, type: q4_0", "type: cannot go together with quantize.bits"),
        ("target_size: 1GB, stage: qat", "target_size: measures a finished model"),
        ("bits: 8, symmetric: false", "symmetric: GGUF has no 8-bit type with an offset"),
        ("type: q4_1, symmetric: true", "symmetric: q4_1 stores an offset beside each scale"),
        ("type: q5_0, symmetric: false", "symmetric: q5_0 stores no offset"),
        ("type: q6_k, per_channel: true", "per_channel: q6_k has scales of its own inside each block"),
        ("type: f16, granularity: per_tensor", "granularity: f16 stores no scales"),
        ("bits: 4, qat: {}, stage: output", "qat: has no meaning in stage output"),
        (
            "bits: 4, calibration: {imatrix: a.gguf, rows: 3}",
            "calibration.rows: cannot go together with quantize.calibration",
        ),
        ("bits: 4, calibration: {percentile: 99.0}", "calibration.percentile: has no meaning for this method"),
        ("bits: 4, calibration: {method: minmax, decay: 0.5}", "calibration.decay: has no meaning for this method"),
        ("bits: 4, tensor_types: {attn: q9}", 'tensor_types: value {"attn": "q9"}; must be a type for each pattern'),
    ],
)
def test_what_cannot_go_together_is_said(keys: str, says: str) -> None:
    assert f"quantize.{says}" in problem(f"quantize: {{{keys}}}")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"bits": 4}, "cannot go together with quantize.bits"),
        ({"pure": True}, "gives all matrices one type"),
        ({"granularity": "per_tensor"}, "needs one type, and target_size chooses among several"),
        ({"symmetric": False}, "depends on the types that target_size chooses"),
    ],
)
def test_a_target_size_leaves_the_choice_of_types_free(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Quantize.model_validate({"target_size": "1GB", "stage": "output", **keys})


@pytest.mark.parametrize("key", ["granularity: per_tensor", "per_channel: true", "calibration: {data: a.txt}"])
def test_a_base_is_packed_in_blocks_of_its_own(key: str) -> None:
    assert "a base is packed while it is loaded" in problem(f"lora: {{}}\nquantize: {{bits: 4, {key}}}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora: {}\nquantize: {bits: 4, stage: qat}\noutput: {merge_adapter: false}", "qat needs a model to write"),
        ("lora: {}\nquantize: {bits: 4, stage: output}\noutput: {gguf: false}", "output needs a model to write"),
        ("quantize: {bits: 4}\noutput: {type: f16}", "output.type: the types of the written model are those of"),
        ("quantize: {bits: 4, stage: qat}\nmerge: {method: ties}", "merge: would change the weights"),
    ],
)
def test_what_is_quantized_is_written_as_it_is(text: str, says: str) -> None:
    assert says in problem(text)


@pytest.mark.parametrize("stage", ["", ", stage: output"])
def test_types_that_fit_a_size_are_not_chosen_by_a_training_run(stage: str) -> None:
    found = problem(f"quantize: {{target_size: 1GB{stage}}}")
    assert "quantize.target_size: types that fit a size are chosen by measuring a finished model" in found
    assert "entrenar quantize MODEL --target-size SIZE" in found


def test_a_target_size_is_bytes_however_it_is_written() -> None:
    sizes = {"700MB": 700_000_000, "1.5GiB": 3 * 2**29, "2 g": 2**31, 123: 123, "10kb": 10_000}
    assert {text: Quantize.model_validate({"target_size": text}).target_size for text in sizes} == sizes
    for wrong in ("0", 0, -1, "big", "1.5.2MB", True, "12 parsecs"):
        with pytest.raises(ValidationError, match="must be a size such as 700MB"):
            Quantize.model_validate({"target_size": wrong})


def test_every_key_survives_the_resolved_configuration() -> None:
    text = """
lora: {}
quantize: {type: q4_k_m, stage: qat, output_type: Q8_0, embedding_type: q5_k, tensor_types: {attn_v: Q6_K},
  allow_requantize: true, qat: {layers: [q_proj], gradient: clipped, warmup: 3}}
"""
    config = config_from_text(HEAD + text, "t.yaml")
    again = config_from_text(resolved_yaml(config), "resolved.yaml")
    assert again == config
    assert again.quantize is not None
    assert again.quantize.tensor_types == {"attn_v": "q6_k"}


def test_a_section_built_in_python_is_checked_too() -> None:
    assert Quantize(bits=8).mix == "q8_0"
    with pytest.raises(ValidationError, match="no 8-bit type with an offset"):
        Quantize(bits=8, symmetric=False)
