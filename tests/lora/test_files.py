"""Adapter files: what llama.cpp expects is written, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.lora.files import (
    AdapterPair,
    adapter_pairs,
    attach_adapter,
    loaded_scale,
    read_adapter,
    write_adapter,
)
from entrenar_core.lora.inject import LoRASettings, inject_lora
from tests.model.tiny import build, lively, tiny_spec, tokens_of, write_model

QUERY = "blk.0.attn_q.weight"
Entries = dict[str, MetadataValue]


def pair(n_out: int = 16, n_in: int = 16, rank: int = 3, scale: float = 2.0) -> AdapterPair:
    return AdapterPair(lively("a", (rank, n_in)), lively("b", (n_out, rank)), scale)


def write_raw(path: Path, tensors: dict[str, np.ndarray], **changes: MetadataValue | None) -> Path:
    """An adapter file with any tensors, and metadata that differs as the test wants."""
    entries: dict[str, MetadataValue | None] = {
        "general.type": MetadataValue.string("adapter"),
        "general.architecture": MetadataValue.string("llama"),
        "adapter.type": MetadataValue.string("lora"),
        "adapter.lora.alpha": MetadataValue.float32(6.0),
    }
    entries |= {key.replace("__", "."): value for key, value in changes.items()}
    kept = [(key, value) for key, value in entries.items() if value is not None]
    write_gguf(path, kept, [encode_tensor(name, array, "F32") for name, array in tensors.items()])
    return path


def halves(weight: str = QUERY, rank_a: int = 3, rank_b: int = 3) -> dict[str, np.ndarray]:
    return {f"{weight}.lora_a": lively("a", (rank_a, 16)), f"{weight}.lora_b": lively("b", (16, rank_b))}


def test_a_written_adapter_has_what_llama_cpp_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    note = ("entrenar.note", MetadataValue.string("kept"))
    size = write_adapter(path, "qwen2", {QUERY: pair()}, alpha=6.0, provenance=[note])
    assert path.stat().st_size == size
    with GGUFFile.open(path) as file:
        entries = dict(file.metadata_entries())
        assert entries["general.type"].value == "adapter"
        assert entries["general.architecture"].value == "qwen2"
        assert entries["adapter.type"].value == "lora"
        assert (entries["adapter.lora.alpha"].type, entries["adapter.lora.alpha"].value) == (ValueType.FLOAT32, 6.0)
        assert entries["entrenar.note"].value == "kept"
        shapes = {name: (info.shape, info.type_name) for name, info in file.tensors.items()}
    assert shapes == {f"{QUERY}.lora_a": ((3, 16), "F32"), f"{QUERY}.lora_b": ((16, 3), "F32")}


def test_an_adapter_reads_back_bit_by_bit(tmp_path: Path) -> None:
    path, written = tmp_path / "adapter.gguf", {QUERY: pair(), "blk.1.ffn_down.weight": pair(16, 24)}
    write_adapter(path, "llama", written, alpha=6.0)
    read = read_adapter(path, "llama")
    assert read.keys() == written.keys()
    for name, each in read.items():
        np.testing.assert_array_equal(each.a, written[name].a)
        np.testing.assert_array_equal(each.b, written[name].b)
        assert each.scale == 2.0


def test_the_scale_of_rslora_is_folded_into_b(tmp_path: Path) -> None:
    """Loaders multiply by alpha/R whatever was meant: 6/3 here, while alpha/√R was trained with."""
    path, written = tmp_path / "adapter.gguf", pair(scale=6 / np.sqrt(3))
    write_adapter(path, "llama", {QUERY: written}, alpha=6.0)
    (read,) = read_adapter(path, "llama").values()
    assert read.scale == 2.0
    np.testing.assert_array_equal(read.a, written.a)
    np.testing.assert_allclose(read.b, written.b * np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(read.delta(), written.delta(), rtol=1e-5, atol=1e-6)


def test_each_weight_may_have_its_own_rank_and_scale(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    written = {QUERY: pair(rank=2, scale=0.5), "blk.1.attn_q.weight": pair(rank=5, scale=3.0)}
    write_adapter(path, "llama", written, alpha=6.0)
    for name, read in read_adapter(path, "llama").items():
        np.testing.assert_allclose(read.delta(), written[name].delta(), rtol=1e-5, atol=1e-6)


def test_alpha_zero_means_a_factor_of_one() -> None:
    assert loaded_scale(0.0, 8) == 1.0
    assert loaded_scale(4.0, 8) == 0.5


@pytest.mark.parametrize("alpha", [MetadataValue.float32(0.0), None], ids=["zero", "missing"])
def test_an_adapter_without_alpha_has_the_factor_one_and_can_be_written_again(
    alpha: MetadataValue | None, tmp_path: Path
) -> None:
    read = read_adapter(write_raw(tmp_path / "a.gguf", halves(), adapter__lora__alpha=alpha), "llama")
    assert read[QUERY].scale == 1.0
    write_adapter(tmp_path / "b.gguf", "llama", read, alpha=0.0)
    np.testing.assert_array_equal(read_adapter(tmp_path / "b.gguf", "llama")[QUERY].delta(), read[QUERY].delta())


def test_the_delta_is_scale_times_b_times_a() -> None:
    each = pair()
    np.testing.assert_allclose(each.delta(), 2.0 * each.b @ each.a, rtol=1e-6)
    assert each.delta().dtype == np.float32


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_a_model_with_the_adapter_read_back_computes_the_same(rslora: bool, tmp_path: Path) -> None:
    model, tokens = build(tiny_spec()), tokens_of(2, 9)
    settings = LoRASettings(3, 5.0, rslora=rslora, targets=("q_proj", "up_proj"))
    for name, tensor in inject_lora(model, settings, seed=1).items():
        tensor.assign(lively(name, tensor.shape))
    pairs = adapter_pairs(model)
    assert sorted(pairs) == [f"blk.{i}.{m}.weight" for i in (0, 1) for m in ("attn_q", "ffn_up")]
    write_adapter(tmp_path / "adapter.gguf", "llama", pairs, settings.alpha)
    other = build(tiny_spec())
    attach_adapter(other, read_adapter(tmp_path / "adapter.gguf", "llama"), "adapter.gguf")
    np.testing.assert_allclose(other.logits(tokens), model.logits(tokens), rtol=1e-5, atol=1e-5)
    assert all(name.endswith((".lora_a", ".lora_b")) for name in other.trainable())


def test_a_model_without_adapters_has_no_pairs() -> None:
    assert adapter_pairs(build(tiny_spec())) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__type": MetadataValue.string("model")}, "not a LoRA adapter"),
        ({"general__type": None}, "not a LoRA adapter"),
        ({"adapter__type": MetadataValue.string("control")}, "not a LoRA adapter"),
        ({"adapter__lora__alpha": MetadataValue.uint32(6)}, "adapter.lora.alpha is 6, not a number"),
        ({"adapter__lora__alpha": MetadataValue.float32(float("nan"))}, "adapter.lora.alpha is nan"),
    ],
)
def test_metadata_that_is_not_an_adapters_is_refused(
    changes: dict[str, MetadataValue | None], message: str, tmp_path: Path
) -> None:
    path = write_raw(tmp_path / "adapter.gguf", halves(), **changes)
    with pytest.raises(FormatError, match=message) as caught:
        read_adapter(path, "llama")
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors"),
        ({"blk.0.attn_norm.weight": np.ones(16, np.float32)}, "attn_norm.weight is neither a lora_a nor a lora_b"),
        ({f"{QUERY}.lora_a": np.ones((3, 16), np.float32)}, f"{QUERY}.lora_b is missing"),
        ({f"{QUERY}.lora_b": np.ones((16, 3), np.float32)}, f"{QUERY}.lora_a is missing"),
        (halves(rank_a=3, rank_b=4), "do not fit"),
        ({f"{QUERY}.lora_a": np.ones(16, np.float32), f"{QUERY}.lora_b": np.ones((16, 3), np.float32)}, "do not fit"),
    ],
)
def test_tensors_that_make_no_pairs_are_refused(tensors: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "adapter.gguf", tensors)
    with pytest.raises(FormatError, match=message) as caught:
        read_adapter(path, "llama")
    assert caught.value.where == str(path)


def test_an_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "adapter.gguf", halves())
    with pytest.raises(ModelError, match="the adapter is for a llama model, not qwen3"):
        read_adapter(path, "qwen3")


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a LoRA adapter"):
        read_adapter(write_model(tmp_path / "model.gguf", tiny_spec()), "llama")


@pytest.mark.parametrize("name", ["blk.2.attn_q.weight", "token_embd.weight", "output.weight"])
def test_an_adapter_for_a_weight_that_the_model_does_not_adapt_is_refused(name: str) -> None:
    model = build(tiny_spec())
    with pytest.raises(ModelError, match=f"the adapter has {name}, the model does not") as caught:
        attach_adapter(model, {QUERY: pair(), name: pair()}, "adapter.gguf")
    assert caught.value.where == "adapter.gguf"
    assert adapter_pairs(model) == {}
    assert model.trainable()


@pytest.mark.parametrize("size", [{"n_out": 8}, {"n_in": 8}], ids=str)
def test_an_adapter_of_another_size_is_refused(size: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"is for \[.*8.*\], the model has \[16, 16\]"):
        attach_adapter(build(tiny_spec()), {QUERY: pair(**size)}, "adapter.gguf")


def test_a_second_adapter_is_refused() -> None:
    model = build(tiny_spec())
    attach_adapter(model, {QUERY: pair()}, "first.gguf")
    with pytest.raises(ModelError, match=f"{QUERY} has an adapter already"):
        attach_adapter(model, {QUERY: pair()}, "second.gguf")
