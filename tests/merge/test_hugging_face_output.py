"""A Hugging Face folder that several threads fill holds the model it was filled with, or there is none."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, ModelError, OutputError
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.hugging_face.rope import llama3_factors
from entrenar_core.merge.hugging_face_output import HuggingFaceOutput
from entrenar_core.merge.model_tensors import matrix_shape
from entrenar_core.merge.models import open_model
from entrenar_core.merge.output import Sink
from entrenar_core.model.spec import DecoderSpec
from tests.hugging_face.folder import write_folder
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_entries, base_spec, tokenizer_entries


def output(path: Path, spec: DecoderSpec, type_name: str = "F32", **options: Any) -> HuggingFaceOutput:
    shapes = {name: values.shape for name, values in lively_weights(spec).items()}
    return HuggingFaceOutput(
        path, base_entries(spec), [(name, shape, type_name) for name, shape in shapes.items()], **options
    )


def pieces_of(weights: Mapping[str, np.ndarray], type_name: str, height: int) -> list[tuple[str, int, np.ndarray]]:
    pieces = []
    for name, values in weights.items():
        packed = codec_for(type_name).encode(values.reshape(matrix_shape(values.shape)))
        pieces += [(name, row, packed[row : row + height]) for row in range(0, len(packed), height)]
    random.Random(3).shuffle(pieces)
    return pieces


def fill(sink: Sink, weights: Mapping[str, np.ndarray], type_name: str = "F32", height: int = 5) -> None:
    """From two threads, in any order."""
    pieces = pieces_of(weights, type_name, height)

    def write(part: list[tuple[str, int, np.ndarray]]) -> None:
        for name, row, packed in part:
            sink.write(name, row, packed)

    threads = [threading.Thread(target=write, args=(pieces[half::2],)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rows_of(path: Path, name: str) -> np.ndarray:
    with closing(open_model(path)) as model:
        out = np.empty(matrix_shape(model.shapes[name]), np.float32)
        model.read(name, 0, out)
        return out.reshape(model.shapes[name])


@pytest.mark.parametrize("height", [3, 8, 1000])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_rows_from_any_thread_in_any_order_make_the_model(architecture: str, height: int, tmp_path: Path) -> None:
    spec = base_spec(architecture)
    weights = lively_weights(spec)
    made = output(tmp_path / "hf", spec, shard_bytes=20_000)
    with made.opened() as sink:
        with sink.reserved():
            pass
        fill(sink, weights, height=height)
        assert not (tmp_path / "hf").exists()
    for name, values in weights.items():
        np.testing.assert_array_equal(rows_of(tmp_path / "hf", name), values, err_msg=name)
    assert made.n_bytes == sum(path.stat().st_size for path in (tmp_path / "hf").iterdir())
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2


def test_the_folder_says_of_itself_what_the_keys_said(tmp_path: Path) -> None:
    spec = base_spec(rope_theta=5e5, rope_scale=0.25, norm_eps=1e-6)
    made = output(tmp_path / "hf", spec)
    with made.opened() as sink:
        fill(sink, lively_weights(spec))
    with closing(open_model(tmp_path / "hf")) as model:
        found = dict(model.metadata)
    wanted = dict(base_entries(spec))
    assert {key for key in wanted if key in found and found[key] != wanted[key]} == {"general.name"}
    lost = {key for key in wanted if key not in found}
    assert lost == {"general.tags", *(key for key in wanted if key.startswith("test."))}


def test_the_biases_of_a_llama_come_back(tmp_path: Path) -> None:
    spec = base_spec()
    sizes = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32}
    biases = {f"blk.{layer}.{name}.bias": (size,) for layer in (0, 1) for name, size in sizes.items()}
    weights = {**lively_weights(spec), **{name: lively(name, shape) for name, shape in biases.items()}}
    specs = [(name, values.shape, "F32") for name, values in weights.items()]
    with HuggingFaceOutput(tmp_path / "hf", base_entries(spec), specs).opened() as sink:
        fill(sink, weights)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["attention_bias"] is True
    for name in biases:
        np.testing.assert_array_equal(rows_of(tmp_path / "hf", name), weights[name])
    partly = [one for one in specs if "attn_output.bias" not in one[0]]
    with pytest.raises(ModelError, match=r"transformers has attn_output\.bias in such a model"):
        HuggingFaceOutput(tmp_path / "other", base_entries(spec), partly)


@pytest.mark.parametrize(("factor", "high", "context"), [(8.0, 4.0, 8192), (32.0, 4.0, 8192), (16.0, 3.0, 2048)])
def test_rope_freqs_become_words(factor: float, high: float, context: int, tmp_path: Path) -> None:
    spec = base_spec(head_dim=64, num_heads=1, num_kv_heads=1, rope_theta=5e5, rope_dimensions=64)
    factors = llama3_factors(5e5, 64, factor=factor, low=1.0, high=high, original_context=context)
    weights = {**lively_weights(spec), "rope_freqs.weight": factors}
    specs = [(name, values.shape, "F32") for name, values in weights.items()]
    with HuggingFaceOutput(tmp_path / "hf", base_entries(spec), specs, rope_factors=factors).opened() as sink:
        fill(sink, weights)
    said = json.loads((tmp_path / "hf" / "config.json").read_text())["rope_scaling"]
    assert (said["factor"], said["high_freq_factor"], said["original_max_position_embeddings"]) == (
        factor, pytest.approx(high, rel=1e-3), context,
    )  # fmt: skip
    np.testing.assert_allclose(rows_of(tmp_path / "hf", "rope_freqs.weight"), factors, rtol=1e-5)


@pytest.mark.parametrize("factors", [[1, 5, 2, 3], [0, 0, 0, 0]])
def test_frequencies_without_words_are_refused(factors: list[int], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no words for the frequencies"):
        output(tmp_path / "hf", base_spec(), rope_factors=np.array(factors, np.float32))


def test_the_tokenizer_of_the_base_is_copied_as_it_is(tmp_path: Path) -> None:
    spec = base_spec()
    base = write_folder(tmp_path / "base", spec, tokenizer=tokenizer_entries())
    (base / "special_tokens_map.json").write_text("{}")
    entries = [one for one in base_entries(spec) if one[0] != "tokenizer.chat_template"]
    specs = [(name, values.shape, "F32") for name, values in lively_weights(spec).items()]
    with HuggingFaceOutput(tmp_path / "hf", entries, specs, like=base).opened() as sink:
        fill(sink, lively_weights(spec))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (base / name).read_bytes()
    other = [(key, MetadataValue.uint32(5) if "eos" in key else value) for key, value in entries]
    with HuggingFaceOutput(tmp_path / "other", other, specs, like=base).opened() as sink:
        fill(sink, lively_weights(spec))
    assert not (tmp_path / "other" / "special_tokens_map.json").exists()
    with closing(open_model(tmp_path / "other")) as model:
        assert dict(model.metadata)["tokenizer.ggml.eos_token_id"].value == 5


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", base_spec())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RuntimeError), output(folder, base_spec()).opened():
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_folder_is_replaced_in_the_end(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "hf", base_spec(), n_files=2)
    with output(folder, base_spec()).opened() as sink:
        fill(sink, lively_weights(base_spec()))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert not list(folder.glob("model-*"))


def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left") as caught, output(tmp_path / "hf", base_spec()).opened():
        raise OSError(28, "No space left on device")
    assert caught.value.where == str(tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def other_file(folder: Path) -> None:
    (folder / "photo.png").touch()


def inner_folder(folder: Path) -> None:
    (folder / "src").mkdir()


@pytest.mark.parametrize("add", [other_file, inner_folder])
def test_a_folder_with_anything_else_in_it_is_not_replaced(add: Callable[[Path], None], tmp_path: Path) -> None:
    add(tmp_path)
    with pytest.raises(OutputError, match="which is no part of a model"), output(tmp_path, base_spec()).opened():
        pytest.fail("the folder was opened")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "hf").touch()
    with pytest.raises(OutputError, match="this is no folder"), output(tmp_path / "hf", base_spec()).opened():
        pytest.fail("the folder was opened")


def test_what_transformers_does_not_have_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="safetensors has no type Q4_0"):
        output(tmp_path / "hf", base_spec(), "Q4_0")
    gemma = [("general.architecture", MetadataValue.string("gemma2"))]
    with pytest.raises(ModelError, match="architecture 'gemma2' cannot be written as a Hugging Face folder"):
        HuggingFaceOutput(tmp_path / "hf", gemma, [("token_embd.weight", (4, 4), "F32")])
    listed = [*base_entries(base_spec()), ("llama.attention.head_count_kv", MetadataValue.array(ValueType.UINT32, [2]))]
    with pytest.raises(ModelError, match="values that differ by layer are not supported"):
        HuggingFaceOutput(tmp_path / "hf", listed, [("token_embd.weight", (4, 4), "F32")])
    with pytest.raises(ModelError, match=r"no matrix token_embd\.weight"):
        HuggingFaceOutput(tmp_path / "hf", base_entries(base_spec()), [])
    assert list(tmp_path.iterdir()) == []
