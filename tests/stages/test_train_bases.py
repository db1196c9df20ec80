"""What a run can start from: bases of every type and shape, and random weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import ConfigError, FormatError
from entrenar_core.events import Notice, Rounded, Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import ValueType
from entrenar_core.lora.files import read_adapter
from entrenar_core.stages.train import run_training
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.model.tiny import lively_weights
from tests.stages import gguf_py
from tests.stages.tiny_base import FILE_TYPES, NEW_MODEL, base_spec, config, train, write_base
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_a_half_precision_base_gives_a_half_precision_model(folder: Path, type_name: str) -> None:
    write_base(folder / "base.gguf", type_name=type_name)
    train(folder)
    assert gguf_py.types(folder / "run" / "model.gguf") == gguf_py.types(folder / "base.gguf")


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_lora_on_a_quantized_base_keeps_what_it_does_not_touch_and_the_type_of_what_it_does(
    folder: Path, type_name: str
) -> None:
    write_base(folder / "base.gguf", type_name=type_name)
    _, listener = train(folder, lora={"target_modules": ["q_proj", "v_proj"]})
    after = gguf_py.raw_tensors(folder / "run" / "model.gguf")
    for name, (kind, content) in gguf_py.raw_tensors(folder / "base.gguf").items():
        assert after[name][0] == kind
        assert (after[name][1] == content) == (name.split(".")[-2] not in ("attn_q", "attn_v"))
    (event,) = listener.of(Rounded)
    assert event.errors.keys() == {f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in "qv"}
    assert all(error["type_name"] == type_name and error["change_share"] for error in event.errors.values())
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == {"event": "rounded", **json.loads(json.dumps(asdict(event)))}
    assert any(f"4 changed tensors are rounded to {type_name}" in one.message for one in listener.of(Notice))


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0"])
def test_full_fine_tuning_of_a_quantized_base_keeps_its_types(folder: Path, type_name: str) -> None:
    write_base(folder / "base.gguf", type_name=type_name)
    train(folder, lora=None)
    assert gguf_py.types(folder / "run" / "model.gguf") == gguf_py.types(folder / "base.gguf")
    assert gguf_py.number(folder / "run" / "model.gguf", "general.file_type") == FILE_TYPES[type_name]


def test_another_output_type_is_that_of_the_whole_model(folder: Path) -> None:
    write_base(folder / "base.gguf", type_name="Q4_0")
    _, listener = train(folder, output={"type": "q8_0"})
    found = gguf_py.types(folder / "run" / "model.gguf")
    assert found == {name: "Q8_0" if array.ndim > 1 else "F32" for name, array in lively_weights(base_spec()).items()}
    assert gguf_py.number(folder / "run" / "model.gguf", "general.file_type") == FILE_TYPES["Q8_0"]
    assert any("quantized again" in one.message for one in listener.of(Notice))


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_the_result_is_quantized_when_it_is_written(folder: Path, lora: dict[str, Any] | None) -> None:
    result, listener = train(folder, lora=lora, quantize={"type": "q4_0", "stage": "output"})
    plain, _ = train(folder, lora=lora, training={"output_dir": str(folder / "plain")})
    assert result.model is not None
    assert plain.model is not None
    found = gguf_py.types(result.model)
    matrices = {name for name, array in lively_weights(base_spec()).items() if array.ndim > 1}
    assert {name for name, kind in found.items() if kind == "Q4_0"} == matrices - {"output.weight"}
    assert found["output.weight"] == "Q8_0", "Q6_K in this mix, which takes rows of 256"
    codec = codec_for("Q4_0")
    for name in ("blk.0.attn_q.weight", "token_embd.weight"):
        expected = codec.decode(codec.encode(np.ascontiguousarray(gguf_py.values(plain.model, name))))
        np.testing.assert_array_equal(gguf_py.values(result.model, name), expected)
    (event,) = listener.of(Rounded)
    assert event.errors.keys() == matrices


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_blocks_share_their_scales_if_that_is_asked_for(folder: Path, granularity: str) -> None:
    result, _ = train(folder, lora=None, quantize={"type": "q8_0", "stage": "output", "granularity": granularity})
    assert result.model is not None
    kind, content = gguf_py.raw_tensors(result.model)["blk.0.ffn_down.weight"]
    scales = np.frombuffer(content, np.uint8).reshape(32, 2, 34)[:, :, :2].copy().view("<f2")[:, :, 0]
    assert kind == "Q8_0"
    assert (scales[:, 0] == scales[:, 1]).all()
    assert (len(np.unique(scales)) == 1) == (granularity == "per_tensor")


def test_an_adapter_is_stored_in_f16_if_that_is_asked_for(folder: Path) -> None:
    result, _ = train(folder, output={"adapter_type": "f16"})
    again, _ = train(folder, training={"output_dir": str(folder / "again")})
    assert result.adapter is not None
    assert again.adapter is not None
    assert set(gguf_py.types(result.adapter).values()) == {"F16"}
    stored, exact = (read_adapter(path, "llama") for path in (result.adapter, again.adapter))
    for name, pair in exact.items():
        np.testing.assert_array_equal(stored[name].a, pair.a.astype(np.float16).astype(np.float32))


def test_types_that_cannot_be_had_are_refused_before_training(folder: Path) -> None:
    with pytest.raises(ConfigError, match="finds no matrix"):
        train(folder, lora=None, quantize={"bits": 4, "tensor_types": {"nothing": "q8_0"}})
    assert not (folder / "run").exists()


def test_tied_embeddings_stay_tied(folder: Path) -> None:
    write_base(folder / "base.gguf", base_spec(tie_embeddings=True))
    train(folder, lora=None)
    found = gguf_py.types(folder / "run" / "model.gguf")
    assert "output.weight" not in found
    assert list(found) == list(gguf_py.types(folder / "base.gguf"))


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_biases_and_head_norms_are_trained_and_kept(folder: Path, architecture: str) -> None:
    write_base(folder / "base.gguf", base_spec(architecture))
    train(folder, lora=None)
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(folder / "run" / "model.gguf")
    assert list(before) == list(after)
    assert all(before[name] != after[name] for name in before)


def test_rope_factors_are_copied_and_not_trained(folder: Path) -> None:
    factors = np.array([1.0, 2.0, 4.0, 8.0], np.float32)
    write_base(folder / "base.gguf", replaced={"rope_freqs.weight": factors})
    train(folder, lora=None)
    assert gguf_py.values(folder / "run" / "model.gguf", "rope_freqs.weight").tolist() == factors.tolist()


def test_a_weight_beyond_f16_stops_the_export_and_the_run_can_be_finished_with_another_type(folder: Path) -> None:
    embedding = lively_weights(base_spec())["token_embd.weight"]
    embedding[250, 3] = 1e6  # a byte that the stories do not have
    write_base(folder / "base.gguf", replaced={"token_embd.weight": embedding})
    with pytest.raises(FormatError, match=r"tensor token_embd\.weight") as caught:
        train(folder, output={"type": "f16"})
    assert "--resume" in str(caught.value.hint)
    assert not (folder / "run" / "model.gguf").exists()
    listener = Listener()
    run_training(config(folder, output={"type": "bf16"}), resume_from="auto", reporter=listener)
    assert listener.of(Step) == []
    assert gguf_py.types(folder / "run" / "model.gguf")["token_embd.weight"] == "BF16"


def test_from_scratch_with_a_tokenizer_trained_on_the_data(folder: Path) -> None:
    result, listener = train(folder, model=NEW_MODEL, lora=None, training={"max_steps": 80}, data={"add_eos": True})
    path = folder / "run" / "model.gguf"
    assert result.model == path
    with GGUFFile.open(path) as file:
        tokenizer = tokenizer_from_metadata(file.metadata, "model")
        assert file.metadata["llama.context_length"] == 32
        assert file.tensors["token_embd.weight"].shape == (tokenizer.vocab_size, 32)
    assert len(tokenizer.encode("Ada saw a red ball.")) < 10
    losses = listener.losses()
    assert losses[0] == pytest.approx(np.log(tokenizer.vocab_size), abs=0.2), "it knows nothing yet"
    assert losses[-1] < 0.6 * losses[0]


def test_a_vocabulary_that_the_data_cannot_fill_is_said(folder: Path) -> None:
    shape = {**NEW_MODEL["architecture"], "vocab_size": 5000}  # type: ignore[dict-item]
    _, listener = train(folder, model={**NEW_MODEL, "architecture": shape}, lora=None)
    assert any("tokens, not 5000" in notice.message for notice in listener.of(Notice))


def test_from_scratch_with_the_tokenizer_of_another_model(folder: Path) -> None:
    train(folder, model={**NEW_MODEL, "tokenizer": str(folder / "base.gguf")}, lora=None)
    before, after = gguf_py.raw_fields(folder / "base.gguf"), gguf_py.raw_fields(folder / "run" / "model.gguf")
    kept = {key for key in before if key.startswith("tokenizer.")}
    assert len(kept) == 9
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert not any(key.startswith("test.") for key in after)


def test_a_new_model_too_small_for_the_tokenizer_is_refused(folder: Path) -> None:
    shape = {**NEW_MODEL["architecture"], "vocab_size": 100}  # type: ignore[dict-item]
    model = {"path": None, "architecture": shape, "tokenizer": str(folder / "base.gguf")}
    with pytest.raises(ConfigError, match="the embedding only 100 rows"):
        train(folder, model=model, lora=None)
    assert not (folder / "run").exists()


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path) -> None:
    write_base(folder / "base.gguf", base_spec(vocab_size=280))
    with pytest.raises(ConfigError, match="the embedding only 280 rows"):
        train(folder)


def test_a_base_in_several_files_becomes_one_file(folder: Path) -> None:
    write_shards(folder / "base.gguf", folder / "part")
    train(folder, model={"path": str(folder / "part-00002-of-00002.gguf")})
    path = folder / "run" / "model.gguf"
    assert not any(key.startswith("split.") for key in gguf_py.raw_fields(path))
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(path)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if "norm" in name)


def write_shards(path: Path, target: Path) -> None:
    """A copy in two files, written by gguf-py."""
    writer = gguf.GGUFWriter(target, "llama", split_max_tensors=12)
    with GGUFFile.open(path) as file:
        for key, value in file.metadata_entries()[1:]:
            if value.element_type != ValueType.ARRAY:
                element = None if value.element_type is None else gguf.GGUFValueType(value.element_type)
                plain = value.plain.tolist() if isinstance(value.plain, np.ndarray) else value.plain
                writer.add_key_value(key, plain, gguf.GGUFValueType(value.type), element)
        for name in file.tensors:
            writer.add_tensor(name, file.load(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
