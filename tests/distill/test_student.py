"""The shape of a student, and what of the teacher it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.config.student import Student
from entrenar_core.distill.student import StudentPlan, evenly_spread, plan_student
from entrenar_core.distill.student_weights import student_weights
from entrenar_core.errors import ConfigError
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.spec import DecoderSpec, spec_from_metadata
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively, lively_weights, tiny_spec, tokens_of, write_model


def teacher_spec(architecture: str = "llama", **changes: Any) -> DecoderSpec:
    """Four blocks, eight heads on four key/value heads."""
    sizes = {"num_layers": 4, "num_heads": 8, "num_kv_heads": 4, "norm_eps": 2.0**-16}
    return tiny_spec(architecture, **{**sizes, **changes})


def planned(path: Path, **sizes: Any) -> StudentPlan:
    return plan_student(Student(**sizes), GGUFFile.open(path))


@given(of=st.integers(1, 200), data=st.data())
def test_blocks_are_spread_evenly_from_the_first_to_the_last(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, of))
    blocks = evenly_spread(count, of)
    assert len(blocks) == count
    assert blocks[0] == 0
    assert count == 1 or blocks[-1] == of - 1
    steps = np.diff(blocks)
    assert (steps > 0).all()
    assert steps.size == 0 or steps.max() - steps.min() <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_student_with_all_blocks_is_its_teacher(architecture: str, tied: bool, tmp_path: Path) -> None:
    spec = teacher_spec(architecture, tie_embeddings=tied)
    plan = planned(write_model(tmp_path / "t.gguf", spec), layers=4)
    assert plan.spec == spec
    assert not plan.needs_activity
    weights = dict(student_weights(plan, 0, {}))
    assert list(weights) == list(expected_shapes(spec))
    tokens = tokens_of(2, 9)
    np.testing.assert_array_equal(build(spec, weights).logits(tokens), build(spec).logits(tokens))


@pytest.mark.parametrize(("layers", "blocks"), [(2, (0, 3)), (3, (0, 2, 3)), ((0, 2), (0, 2)), ((3,), (3,)), (1, (0,))])
def test_blocks_are_copied_as_they_are(layers: Any, blocks: tuple[int, ...], tmp_path: Path) -> None:
    spec = teacher_spec()
    plan = planned(write_model(tmp_path / "t.gguf", spec), layers=layers)
    assert plan.blocks == blocks
    assert plan.spec.num_layers == len(blocks)
    teacher, student = lively_weights(spec), dict(student_weights(plan, 0, {}))
    for name, values in student.items():
        prefix, _, rest = name.removeprefix("blk.").partition(".")
        source = f"blk.{blocks[int(prefix)]}.{rest}" if name.startswith("blk.") else name
        np.testing.assert_array_equal(values, teacher[source], err_msg=name)


def test_biases_and_factors_of_rope_go_along(tmp_path: Path) -> None:
    spec = teacher_spec()
    extra = {f"blk.{block}.attn_q.bias": lively(f"b{block}", (spec.query_size,)) for block in range(4)}
    weights = lively_weights(spec) | extra | {ROPE_FREQS: np.arange(1, 5, dtype=np.float32)}
    plan = planned(write_model(tmp_path / "t.gguf", spec, weights), layers=(1, 3))
    shapes = plan.shapes()
    assert shapes[ROPE_FREQS] == (4,)
    assert {name for name in shapes if name.endswith(".bias")} == {"blk.0.attn_q.bias", "blk.1.attn_q.bias"}
    found = dict(student_weights(plan, 0, {}))
    np.testing.assert_array_equal(found["blk.1.attn_q.bias"], extra["blk.3.attn_q.bias"])
    assert ROPE_FREQS not in found


def test_random_weights_have_the_shape_alone_and_depend_on_the_seed(tmp_path: Path) -> None:
    path = write_model(tmp_path / "t.gguf", teacher_spec())
    plan = planned(path, layers=6, hidden=32, init="random")
    assert (plan.spec.num_layers, plan.spec.hidden_size, plan.blocks) == (6, 32, None)
    one, same, other = (dict(student_weights(plan, seed, {})) for seed in (1, 1, 2))
    assert {name: values.shape for name, values in one.items()} == expected_shapes(plan.spec)
    name = "blk.5.attn_q.weight"
    np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one[name], other[name])


@pytest.mark.parametrize(
    ("sizes", "heads", "kv_heads"),
    [
        ({}, 8, 4),
        ({"heads": 4}, 4, 4),
        ({"kv_heads": 2}, 4, 2),
        ({"heads": 6}, 6, 3),
        ({"heads": 4, "kv_heads": 2}, 4, 2),
        ({"heads": 2, "kv_heads": 2}, 2, 2),
    ],
)
def test_heads_keep_their_key_value_heads(sizes: dict[str, int], heads: int, kv_heads: int, tmp_path: Path) -> None:
    plan = planned(write_model(tmp_path / "t.gguf", teacher_spec()), layers=2, **sizes)
    assert (plan.spec.num_heads, plan.spec.num_kv_heads, plan.spec.head_dim) == (heads, kv_heads, 8)


def test_without_groups_there_are_as_many_key_value_heads_as_heads(tmp_path: Path) -> None:
    plan = planned(write_model(tmp_path / "t.gguf", teacher_spec(num_heads=4)), heads=2)
    assert (plan.spec.num_heads, plan.spec.num_kv_heads) == (2, 2)


@pytest.mark.parametrize(
    ("sizes", "key", "says"),
    [
        ({"layers": 5}, "layers", "value 5; the teacher has 4 blocks"),
        ({"layers": (0, 4)}, "layers", "there is no block 4: the teacher has 4, counted from 0"),
        ({"hidden": 17}, "hidden", "value 17; the teacher has 16 channels"),
        ({"ffn": 25}, "ffn", "value 25; the teacher has 24 neurons"),
        ({"heads": 16}, "heads", "value 16; the teacher has 8 heads"),
        ({"kv_heads": 5}, "heads", "value 10; the teacher has 8 heads"),
        ({"heads": 8, "kv_heads": 8}, "kv_heads", "value 8; the teacher has 4 key/value heads"),
        ({"heads": 5}, "heads", "5 heads fit neither the teacher's 4 key/value heads nor 2 heads for each"),
        ({"heads": 8, "kv_heads": 2}, "kv_heads", "4 heads would share one of 2 key/value heads; in the teacher it"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_their_key(sizes: Any, key: str, says: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "t.gguf", teacher_spec())
    with pytest.raises(ConfigError) as caught:
        planned(path, **sizes)
    assert caught.value.where == f"distill.student.{key}"
    assert says in caught.value.message


@pytest.mark.parametrize("sizes", [{"heads": 4}, {"hidden": 8}, {"init": "random", "heads": 4}])
def test_heads_of_qwen2_are_as_wide_as_its_stream(sizes: Any, tmp_path: Path) -> None:
    path = write_model(tmp_path / "t.gguf", teacher_spec("qwen2", hidden_size=64))
    with pytest.raises(ConfigError, match=r"llama\.cpp would not load a qwen2 model whose \d heads of 8"):
        planned(path, **sizes)
    assert planned(path, heads=4, hidden=32).spec.query_size == 32


@pytest.mark.parametrize(
    ("type_name", "written"), [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16")], ids=lambda name: name
)
def test_matrices_are_written_in_the_floats_of_the_teacher(type_name: str, written: str, tmp_path: Path) -> None:
    assert (
        planned(write_model(tmp_path / "t.gguf", teacher_spec(), type_name=type_name), layers=2).matrix_type == written
    )


def test_the_keys_are_those_of_the_teacher_in_the_shape_of_the_student(tmp_path: Path) -> None:
    kept = {
        "tokenizer.chat_template": MetadataValue.string("{{ messages }}"),
        "llama.rope.scaling.type": MetadataValue.string("linear"),
        "llama.rope.scaling.factor": MetadataValue.float32(4.0),
    }
    lost = {
        "general.file_type": MetadataValue.uint32(2),
        "general.size_label": MetadataValue.string("7B"),
        "quantize.imatrix.file": MetadataValue.string("i"),
    }
    spec = teacher_spec(rope_scale=0.25)
    path = write_model(tmp_path / "t.gguf", spec, metadata=(kept | lost).items())
    plan = planned(path, layers=2, hidden=8, heads=2, kv_heads=1, ffn=12)
    found = dict(plan.metadata("small"))
    assert kept.items() <= found.items()
    assert not lost.keys() & found.keys()
    assert found["general.name"].value == "small"
    plain = {key: value.plain for key, value in found.items()}
    again = spec_from_metadata(spec.traits, plain, vocab_size=40, tie_embeddings=False, source="")
    assert again == plan.spec
