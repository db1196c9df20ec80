"""A Hugging Face folder as an input of a merge is the GGUF of the same model: names, rows, values, metadata."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.merge.fit import check_fit, facts_of
from entrenar_core.merge.model_tensors import ModelTensors, matrix_shape
from entrenar_core.merge.models import open_model
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.hugging_face.folder import write_folder
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

Q, K = "blk.0.attn_q.weight", "blk.0.attn_k.weight"


def rows_of(model: ModelTensors, name: str, first: int = 0, count: int | None = None) -> np.ndarray:
    n_rows, columns = matrix_shape(model.shapes[name])
    out = np.full((n_rows - first if count is None else count, columns), 7, np.float32)
    model.read(name, first, out)
    return out


def assert_same_tensors(ours: ModelTensors, theirs: ModelTensors, rng: np.random.Generator) -> None:
    assert list(ours.shapes) == list(theirs.shapes)
    for name, shape in theirs.shapes.items():
        assert ours.shapes[name] == shape
        expected = rows_of(theirs, name)
        np.testing.assert_array_equal(rows_of(ours, name), expected, err_msg=name)
        for _ in range(8):
            first = int(rng.integers(len(expected)))
            count = int(rng.integers(1, len(expected) - first + 1))
            np.testing.assert_array_equal(rows_of(ours, name, first, count), expected[first : first + count])


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_folder_is_the_gguf_of_the_same_model(
    architecture: str, type_name: str, n_files: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    spec = base_spec(architecture)
    rounded = {name: round_to(values, type_name) for name, values in lively_weights(spec).items()}
    folder = write_folder(tmp_path / "hf", spec, rounded, type_name=type_name, n_files=n_files)
    path = write_base(tmp_path / "m.gguf", spec, replaced=rounded, type_name=type_name)
    with closing(open_model(folder)) as ours, closing(open_model(path)) as theirs:
        assert_same_tensors(ours, theirs, rng)
        assert {name: ours.type_name(name) for name in ours.shapes} == {
            name: theirs.type_name(name) for name in theirs.shapes
        }
        assert check_fit(facts_of(ours), facts_of(theirs)) == []
        assert dict(ours.metadata)["general.file_type"] == dict(theirs.metadata)["general.file_type"]


def round_to(values: np.ndarray, type_name: str) -> np.ndarray:
    if type_name == "BF16":
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype({"F16": np.float16, "F32": np.float32}[type_name]).astype(np.float32)


def test_the_biases_of_q_and_k_are_in_gguf_order_too(tmp_path: Path) -> None:
    weights = lively_weights(base_spec())
    biases = {f"blk.{layer}.attn_{part}.bias": (32 if part in "qo" else 16) for layer in (0, 1) for part in "qkv"}
    biased = weights | {name: lively(name, (size,)) for name, size in biases.items()}
    with closing(open_model(write_folder(tmp_path / "hf", base_spec(), biased))) as model:
        for name in biases:
            np.testing.assert_array_equal(rows_of(model, name)[0], biased[name])


@pytest.mark.parametrize("kept", [True, False])
def test_a_tied_head_is_no_tensor_of_its_own(kept: bool, tmp_path: Path) -> None:
    spec = base_spec(tie_embeddings=True)
    extra = {"lm_head.weight": lively("token_embd.weight", (spec.vocab_size, 32))} if kept else {}
    with closing(open_model(write_folder(tmp_path / "hf", spec, extra=extra))) as model:
        assert "output.weight" not in model.shapes
        assert model.shapes["token_embd.weight"] == (spec.vocab_size, 32)


def test_frequencies_that_old_folders_keep_are_left_out(tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    with closing(open_model(write_folder(tmp_path / "hf", base_spec(), extra=extra))) as model:
        assert model.shapes.keys() == lively_weights(base_spec()).keys()


def test_the_rope_of_llama3_becomes_a_tensor(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = write_folder(
        tmp_path / "hf", base_spec(), rope_parameters={**rope, "original_max_position_embeddings": 64}
    )
    with closing(open_model(folder)) as model:
        assert model.shapes["rope_freqs.weight"] == (4,)
        assert model.type_name("rope_freqs.weight") == "F32"
        factors = rows_of(model, "rope_freqs.weight")[0]
    assert factors[0] == 1
    assert factors[-1] == 8


def test_the_tokenizer_is_the_one_of_the_gguf(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", base_spec(), tokenizer=tokenizer_entries())
    with closing(open_model(folder)) as model:
        found = {key: value for key, value in model.metadata if key.startswith("tokenizer.")}
        assert found == dict(tokenizer_entries())
        assert list(model.tokens) == dict(tokenizer_entries())["tokenizer.ggml.tokens"].value
        tokenizer = tokenizer_from_metadata({key: value.plain for key, value in model.metadata}, "test")
    assert tokenizer.decode(tokenizer.encode("Ada saw a red ball.")) == "Ada saw a red ball."


def test_the_real_model_is_the_same_in_both_forms(shared_data: Path, rng: np.random.Generator) -> None:
    folder = shared_data / "models" / "base-7m-hf"
    with (
        closing(open_model(folder)) as ours,
        closing(open_model(shared_data / "models" / "base-7m-f16.gguf")) as theirs,
    ):
        for name in theirs.shapes:
            np.testing.assert_array_equal(rows_of(ours, name), rows_of(theirs, name), err_msg=name)
        assert check_fit(facts_of(ours), facts_of(theirs)) == []
        mine, wanted = dict(ours.metadata), dict(theirs.metadata)
        missing = {key for key in wanted if key not in mine}
        assert missing == {"general.license"}
        assert {key for key in wanted if key in mine and mine[key] != wanted[key]} == {"general.name"}


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("blk.1.ffn_up.weight", None, "the tensor blk.1.ffn_up.weight is missing"),
        ("output.weight", None, "the tensor output.weight is missing"),
        ("token_embd.weight", None, "there is no matrix model.embed_tokens.weight"),
        (K, (4, 4), "the tensor blk.0.attn_k.weight has shape [4, 4], expected [16, 32]"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    name: str, instead: tuple[int, int] | None, said: str, tmp_path: Path
) -> None:
    weights = {other: values for other, values in lively_weights(base_spec()).items() if other != name}
    if instead is not None:
        weights[name] = np.ones(instead, np.float32)
    with pytest.raises(ModelError) as caught:
        open_model(write_folder(tmp_path / "hf", base_spec(), weights))
    assert (caught.value.message, caught.value.where) == (said, str(tmp_path / "hf"))


def test_a_number_of_layers_that_no_tensors_are_there_for_is_refused_at_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", base_spec())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    with pytest.raises(ModelError, match=r"1000000000 layers cannot be made of \d+ tensors"):
        open_model(folder)


def test_a_tensor_that_nobody_knows_is_refused_with_its_file(tmp_path: Path) -> None:
    extra = {"model.layers.0.mlp.experts.0.up_proj.weight": np.ones((2, 2), np.float32)}
    folder = write_folder(tmp_path / "hf", base_spec(), extra=extra)
    with pytest.raises(FormatError, match="llama has no tensor named") as caught:
        open_model(folder)
    assert caught.value.where == f"{folder / 'model.safetensors'}: tensor {next(iter(extra))}"


def test_a_value_that_is_not_finite_is_named_where_it_stands_in_the_file(tmp_path: Path) -> None:
    weights = lively_weights(base_spec())
    weights[Q] = weights[Q].copy()
    weights[Q][3, 5] = np.nan  # row 1 of the second half of head 0, so row 5 in Hugging Face's order
    folder = write_folder(tmp_path / "hf", base_spec(), weights)
    with closing(open_model(folder)) as model, pytest.raises(FormatError, match="row 5, column 5 is nan") as caught:
        rows_of(model, Q, 2, 4)
    assert caught.value.where == f"{folder / 'model.safetensors'}: tensor model.layers.0.self_attn.q_proj.weight"


def test_a_folder_that_is_no_model_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="this is an adapter, not a model"):
        open_model(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter.gguf").touch()  # of a training run, beside its model
    write_base(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match=r"there is no config\.json") as caught:
        open_model(tmp_path)
    assert caught.value.hint == f"give the file itself: {tmp_path / 'm.gguf'}"
    with pytest.raises(FormatError, match="a part of a model") as caught:
        open_model(write_folder(tmp_path / "hf", base_spec()) / "model.safetensors")
    assert caught.value.hint == f"give its folder: {tmp_path / 'hf'}"


def test_a_folder_may_have_no_tokenizer(tmp_path: Path) -> None:
    with closing(open_model(write_folder(tmp_path / "hf", base_spec()))) as model:
        assert list(model.tokens) == []
        assert ("general.architecture", MetadataValue.string("llama")) in model.metadata
