"""A base that stays in GGML blocks: it computes what its decoded weights compute, and is held in no more than them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.lora.files import adapter_pairs
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model import packed
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.load import dense_matrices, load_model
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import build, lively, lively_weights, loss_and_gradients, pack, tiny_spec, tokens_of, write_model

TYPES = ("Q4_0", "Q8_0")
SPEC = tiny_spec("qwen3", hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=64)
SETTINGS = LoRASettings(rank=3, alpha=6.0)


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    make: dict[str, Callable[[], Any]] = {
        "reference": lambda: ReferenceBackend(np.float32),
        "cpu": lambda: CpuBackend(2),
    }
    made = make[request.param]()
    yield made
    made.close()


def load(path: Path, backend: Any, pack_as: str, **options: Any) -> LanguageModel:
    with GGUFFile.open(path) as file:
        return load_model(file, backend, pack_as=pack_as, **options)


def rounded_weights(spec: DecoderSpec, type_name: str) -> dict[str, np.ndarray]:
    """What a model of `lively_weights` computes with once its layers are packed."""
    codec = codec_for(type_name)

    def rounded(name: str, array: np.ndarray) -> np.ndarray:
        in_blocks = name.startswith("blk.") and array.ndim == 2 and array.shape[1] % 32 == 0
        return codec.decode(codec.encode(array)) if in_blocks else array

    return {name: rounded(name, array) for name, array in lively_weights(spec).items()}


def adapted(model: LanguageModel) -> LanguageModel:
    for name, tensor in inject_lora(model, SETTINGS, seed=1).items():
        if name.endswith(".lora_b"):
            tensor.assign(lively(name, tensor.shape))
    return model


@pytest.mark.parametrize("type_name", TYPES)
def test_a_packed_model_computes_with_the_rounded_weights(type_name: str, backend: Any, tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", SPEC), backend, type_name)
    dense = build(SPEC, rounded_weights(SPEC, type_name), backend, trainable=False)
    tokens = tokens_of(2, 9)
    np.testing.assert_allclose(model.logits(tokens), dense.logits(tokens), atol=2e-5)
    assert np.abs(model.logits(tokens) - build(SPEC, backend=backend).logits(tokens)).max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("type_name", TYPES)
def test_gradients_of_adapters_are_those_over_the_rounded_dense_weights(
    type_name: str, checkpointing: bool, backend: Any, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.gguf", SPEC)
    batch = pack([[tokens_of(9)], [tokens_of(5, seed=2)]], 8)
    over_packed = adapted(load(path, backend, type_name, checkpoint_activations=checkpointing))
    over_dense = adapted(build(SPEC, rounded_weights(SPEC, type_name), backend, trainable=False))
    loss, gradients = loss_and_gradients(over_packed, batch)
    expected_loss, expected = loss_and_gradients(over_dense, batch)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], atol=2e-5 * np.abs(expected[name]).max(), err_msg=name)


@pytest.mark.parametrize("type_name", TYPES)
def test_only_the_matrices_of_layers_are_packed(type_name: str, tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", SPEC), ReferenceBackend(), type_name)
    matrices = {name for name, array in lively_weights(SPEC).items() if name.startswith("blk.") and array.ndim == 2}
    assert model.packed_weights().keys() == matrices
    assert model.parameters().keys() == lively_weights(SPEC).keys() - matrices
    assert model.count_values() == sum(array.size for array in lively_weights(SPEC).values())


def test_only_adapters_are_trained_and_they_carry_the_names_of_the_weights(tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", SPEC), ReferenceBackend(), "Q4_0")
    adapters = inject_lora(model, SETTINGS, seed=0)
    assert model.trainable() == adapters
    assert adapter_pairs(model).keys() == model.packed_weights().keys()


@pytest.mark.parametrize("type_name", TYPES)
def test_blocks_are_what_the_codec_makes_of_the_file_however_the_rows_are_cut(
    type_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_PIECE_VALUES", 96)
    model = load(write_model(tmp_path / "m.gguf", SPEC, type_name="F16"), CpuBackend(3), type_name)
    for name, weight in model.packed_weights().items():
        halves = lively_weights(SPEC)[name].astype(np.float16).astype(np.float32)
        assert np.array_equal(weight.matrix.blocks, codec_for(type_name).encode(halves)), name


@pytest.mark.parametrize("type_name", TYPES)
def test_blocks_of_the_wanted_type_stay_in_the_mapped_file(type_name: str, tmp_path: Path) -> None:
    path = write_blocks(tmp_path / "m.gguf", type_name)
    with GGUFFile.open(path) as file:
        model = load_model(file, ReferenceBackend(), pack_as=type_name)
        for name, weight in model.packed_weights().items():
            assert np.shares_memory(weight.matrix.blocks, file.raw(name))
    tokens = tokens_of(1, 5)
    expected = build(SPEC, rounded_weights(SPEC, type_name), ReferenceBackend()).logits(tokens)
    np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-5)


def write_blocks(path: Path, type_name: str) -> Path:
    """SPEC with its layers' matrices in blocks and all else in F32."""
    plans = [
        encode_tensor(name, array, type_name if name.startswith("blk.") and array.ndim == 2 else "F32")
        for name, array in lively_weights(SPEC).items()
    ]
    write_gguf(path, spec_metadata(SPEC, "tiny"), plans)
    return path


def test_rows_that_are_no_whole_blocks_stay_dense(tmp_path: Path) -> None:
    spec = tiny_spec(hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=48)
    path = write_model(tmp_path / "m.gguf", spec)
    model = load(path, ReferenceBackend(np.float32), "Q4_0")
    down = ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    with GGUFFile.open(path) as file:
        assert dense_matrices(file, "Q4_0") == down
    assert all(isinstance(model.parameters()[name], Tensor) for name in down)
    tokens = tokens_of(1, 6)
    expected = build(spec, rounded_weights(spec, "Q4_0"), ReferenceBackend(np.float32)).logits(tokens)
    np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-5)


def test_a_packed_model_cannot_be_trained_in_full(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Q4_0 blocks cannot be trained"):
        load(write_model(tmp_path / "m.gguf", SPEC), ReferenceBackend(), "Q4_0", trainable=True)


def test_a_value_that_fits_no_block_names_file_and_tensor(tmp_path: Path) -> None:
    weights = lively_weights(SPEC)
    weights["blk.1.ffn_up.weight"][3, 4] = np.nan
    path = write_model(tmp_path / "m.gguf", SPEC, weights)
    with pytest.raises(FormatError, match="nan does not fit a block of Q4_0") as caught:
        load(path, ReferenceBackend(), "Q4_0")
    assert caught.value.where == f"{path}: tensor blk.1.ffn_up.weight"


def test_a_norm_or_an_embedding_in_blocks_is_refused() -> None:
    backend = ReferenceBackend()
    weights: dict[str, Any] = {name: Tensor(array, backend, name=name) for name, array in lively_weights(SPEC).items()}
    table = lively_weights(SPEC)["token_embd.weight"]
    weights["token_embd.weight"] = PackedWeight("token_embd.weight", packed.PackedMatrix.encode(table, "Q8_0"), backend)
    with pytest.raises(ModelError, match=r"token_embd\.weight cannot be held in Q8_0 blocks"):
        LanguageModel(SPEC, weights, backend)


def test_loading_never_holds_a_matrix_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_PIECE_VALUES", 4096)
    spec = tiny_spec(hidden_size=256, num_heads=8, num_kv_heads=8, head_dim=32, intermediate_size=1024, vocab_size=32)
    path = write_model(tmp_path / "m.gguf", spec, type_name="F16")
    with GGUFFile.open(path) as file:
        load_model(file, ReferenceBackend(np.float32), pack_as="Q4_0")  # the kernel is compiled
        tracemalloc.start()
        model = load_model(file, ReferenceBackend(np.float32), pack_as="Q4_0")
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    matrix, blocks = 4 * 256 * 1024, sum(weight.matrix.n_bytes for weight in model.packed_weights().values())
    assert blocks <= held < blocks + 4 * 256 * 64 + 100_000
    assert peak - held < matrix / 4
