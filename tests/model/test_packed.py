"""A base that stays in GGML blocks: it computes what its decoded weights compute, and is held in no more than them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs import parallel
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf
from entrenar_core.lora.files import adapter_pairs
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.kv_cache import KVCache
from entrenar_core.model.load import load_model
from entrenar_core.model.module import PassKey
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.spec import DecoderSpec
from tests.codecs.packed_blocks import weight_blocks
from tests.model.tiny import build, lively, lively_weights, loss_and_gradients, pack, tiny_spec, tokens_of, write_model

TYPES = ("Q4_0", "Q8_0")
SPEC = tiny_spec("qwen3", hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=64)
WIDE = tiny_spec(hidden_size=256, num_heads=4, num_kv_heads=2, head_dim=64, intermediate_size=256, rope_dimensions=8)
TIED = tiny_spec(
    hidden_size=256, num_heads=4, num_kv_heads=2, head_dim=64, intermediate_size=256, rope_dimensions=8,
    tie_embeddings=True,
)  # fmt: skip
SETTINGS = LoRASettings(rank=3, alpha=6.0, dropout=0.2)


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    make: dict[str, Callable[[], Any]] = {
        "reference": lambda: ReferenceBackend(np.float32),
        "cpu": lambda: CpuBackend(2),
    }
    made = make[request.param]()
    yield made
    made.close()


def matrices_of(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The matrices of layers with whole blocks of 32, by name."""
    shapes = {name: array.shape for name, array in lively_weights(spec).items()}
    return {
        name: each for name, each in shapes.items() if name.startswith("blk.") and len(each) == 2 and not each[1] % 32
    }


def load(path: Path, backend: Any, type_name: str, **options: Any) -> LanguageModel:
    """A model whose layers are packed when it is loaded."""
    with GGUFFile.open(path) as file:
        held = {name: type_name for name in file.tensors if name.startswith("blk.") and "_norm" not in name}
        held = {name: kind for name, kind in held.items() if file.tensors[name].shape[-1] % 32 == 0}
        return load_model(file, backend, held_as=held, **options)


def rounded_weights(spec: DecoderSpec, type_name: str) -> dict[str, np.ndarray]:
    """What a model of `lively_weights` computes with once its layers are packed."""
    codec, packed = codec_for(type_name), matrices_of(spec)
    weights = lively_weights(spec)
    return {name: codec.decode(codec.encode(array)) if name in packed else array for name, array in weights.items()}


def blocks_of(name: str, array: np.ndarray, type_name: str) -> np.ndarray:
    """A matrix in blocks of any type that is decoded."""
    if type_name in ENCODABLE:
        return codec_for(type_name).encode(array)
    return weight_blocks(type_name, (array.shape[0], array.shape[1]), float(array.std()), seed=crc32(name.encode()))


MIXED = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "attn_k": "F16", "output": "Q6_K", "token_embd": "Q5_K"}
"""Types of the matrices of a file like those in Q4_K_M; the others are Q4_K."""


def write_in_blocks(path: Path, spec: DecoderSpec, type_name: str) -> Path:
    """Every matrix in blocks of one type, or of several for ``mixed``; all else in F32."""
    plans = []
    for name, array in lively_weights(spec).items():
        kind = MIXED.get(name.split(".")[-2], "Q4_K") if type_name == "mixed" else type_name
        if array.ndim == 1:
            plans.append(encode_tensor(name, array, "F32"))
        else:
            packed = blocks_of(name, array, kind)
            plans.append(TensorPlan(name, array.shape, kind, lambda packed=packed: packed))  # type: ignore[misc]
    write_gguf(path, spec_metadata(spec, "tiny"), plans)
    return path


def decoded_model(path: Path, spec: DecoderSpec, backend: Any, **options: Any) -> LanguageModel:
    """The same model with every matrix in full precision."""
    with GGUFFile.open(path) as file:
        return build(spec, {name: file.load(name) for name in file.tensors}, backend, trainable=False, **options)


def adapted(model: LanguageModel) -> LanguageModel:
    for name, tensor in inject_lora(model, SETTINGS, seed=1).items():
        if name.endswith(".lora_b"):
            tensor.assign(0.1 * lively(name, tensor.shape))  # a change beside the weight, as training makes it
    return model


@pytest.mark.parametrize("type_name", TYPES)
def test_a_packed_model_computes_with_the_rounded_weights(type_name: str, backend: Any, tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", SPEC), backend, type_name)
    dense = build(SPEC, rounded_weights(SPEC, type_name), backend, trainable=False)
    tokens = tokens_of(2, 9)
    np.testing.assert_allclose(model.logits(tokens), dense.logits(tokens), atol=2e-5)
    assert np.abs(model.logits(tokens) - build(SPEC, backend=backend).logits(tokens)).max() > 1e-3


IN_FILES = [
    ("Q4_0", SPEC, True), ("Q8_0", SPEC, False), ("IQ4_NL", SPEC, True), ("mixed", WIDE, False), ("mixed", WIDE, True),
    ("mixed", TIED, True), ("IQ2_XS", WIDE, False), ("Q3_K", TIED, False),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "spec", "checkpointing"), IN_FILES)
def test_losses_and_gradients_over_a_file_in_blocks_are_those_over_its_decoded_weights(
    type_name: str, spec: DecoderSpec, checkpointing: bool, backend: Any, tmp_path: Path
) -> None:
    path = write_in_blocks(tmp_path / "m.gguf", spec, type_name)
    with GGUFFile.open(path) as file:
        over_packed = adapted(load_model(file, backend, checkpoint_activations=checkpointing))
    over_decoded = adapted(decoded_model(path, spec, backend, checkpoint_activations=checkpointing))
    assert_same_training(over_packed, over_decoded)


def assert_same_training(over_packed: LanguageModel, over_decoded: LanguageModel) -> None:
    """Loss and gradients of the adapters in a pass with dropout, to 1e-5 of the largest."""
    batch, key = pack([[tokens_of(9)], [tokens_of(5, seed=2)]], 8), PassKey(1, 2, 3)
    loss, gradients = loss_and_gradients(over_packed, batch, key=key)
    expected_loss, expected = loss_and_gradients(over_decoded, batch, key=key)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        off, size = np.linalg.norm(gradient - expected[name]), np.linalg.norm(expected[name])
        assert off <= 1e-5 * size, f"{name}: {off / size:.2g}"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("type_name", TYPES)
def test_losses_and_gradients_over_a_base_packed_on_load_are_those_over_the_rounded_weights(
    type_name: str, checkpointing: bool, backend: Any, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.gguf", SPEC)
    over_packed = adapted(load(path, backend, type_name, checkpoint_activations=checkpointing))
    dense = build(SPEC, rounded_weights(SPEC, type_name), backend, trainable=False)
    assert_same_training(over_packed, adapted(dense))


@pytest.mark.parametrize(("spec", "n_packed"), [(WIDE, 14), (TIED, 13)], ids=["untied", "tied"])
def test_every_matrix_that_the_file_has_in_blocks_stays_where_it_lies(
    spec: DecoderSpec, n_packed: int, tmp_path: Path
) -> None:
    path = write_in_blocks(tmp_path / "m.gguf", spec, "mixed")
    with GGUFFile.open(path) as file:
        model = load_model(file, ReferenceBackend(np.float32))
        packed = model.packed_weights()
        in_blocks = {name: info.type_name for name, info in file.tensors.items() if info.type_name[0] == "Q"}
        assert {name: weight.matrix.type_name for name, weight in packed.items()} == in_blocks
        assert len(packed) == n_packed
        assert all(np.shares_memory(weight.matrix.blocks, file.raw(name)) for name, weight in packed.items())
    assert model.count_values() == sum(array.size for array in lively_weights(spec).values())


@pytest.mark.parametrize("spec", [WIDE, TIED], ids=["untied", "tied"])
def test_tokens_are_read_and_predicted_through_blocks(spec: DecoderSpec, backend: Any, tmp_path: Path) -> None:
    path = write_in_blocks(tmp_path / "m.gguf", spec, "mixed")
    with GGUFFile.open(path) as file:
        model = load_model(file, backend)
    dense, tokens = decoded_model(path, spec, backend), tokens_of(1, 7)
    whole = dense.logits(tokens)
    np.testing.assert_allclose(model.logits(tokens), whole, atol=2e-5 * np.abs(whole).max())
    cache = KVCache(spec, backend, 7)
    model.next_logits(tokens[0, :6], cache)
    np.testing.assert_allclose(model.next_logits(tokens[0, 6:], cache), whole[0, -1], atol=2e-5 * np.abs(whole).max())


def test_a_file_in_blocks_can_be_held_in_full_precision(tmp_path: Path) -> None:
    path = write_in_blocks(tmp_path / "m.gguf", SPEC, "Q8_0")
    with GGUFFile.open(path) as file:
        assert load_model(file, ReferenceBackend(np.float32), held_as={}).packed_weights() == {}
        trained = load_model(file, ReferenceBackend(np.float32), trainable=True)
    assert trained.packed_weights() == {}
    assert trained.trainable().keys() == lively_weights(SPEC).keys()


@pytest.mark.parametrize("type_name", TYPES)
def test_only_the_named_matrices_are_packed(type_name: str, tmp_path: Path) -> None:
    model = load(write_model(tmp_path / "m.gguf", SPEC), ReferenceBackend(), type_name)
    assert model.packed_weights().keys() == matrices_of(SPEC).keys()
    assert model.parameters().keys() == lively_weights(SPEC).keys() - matrices_of(SPEC).keys()
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
    monkeypatch.setattr(parallel, "PIECE_VALUES", 96)
    model = load(write_model(tmp_path / "m.gguf", SPEC, type_name="F16"), CpuBackend(3), type_name)
    for name, weight in model.packed_weights().items():
        halves = lively_weights(SPEC)[name].astype(np.float16).astype(np.float32)
        assert np.array_equal(weight.matrix.blocks, codec_for(type_name).encode(halves)), name


def test_rows_that_are_no_whole_blocks_stay_dense(tmp_path: Path) -> None:
    spec = tiny_spec(hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=48)
    path = write_model(tmp_path / "m.gguf", spec)
    model = load(path, ReferenceBackend(np.float32), "Q4_0")
    down = ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
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


def test_a_norm_in_blocks_is_refused() -> None:
    backend, name = ReferenceBackend(), "output_norm.weight"
    weights: dict[str, Any] = {name: Tensor(array, backend, name=name) for name, array in lively_weights(SPEC).items()}
    weights[name] = PackedWeight(name, PackedMatrix.encode(weights[name].numpy()[None], "Q8_0"), backend)
    with pytest.raises(ModelError, match=r"output_norm\.weight cannot be held in Q8_0 blocks"):
        LanguageModel(SPEC, weights, backend)


def test_loading_never_holds_a_matrix_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PIECE_VALUES", 4096)
    spec = tiny_spec(hidden_size=256, num_heads=8, num_kv_heads=8, head_dim=32, intermediate_size=1024, vocab_size=32)
    path = write_model(tmp_path / "m.gguf", spec, type_name="F16")
    with GGUFFile.open(path) as file:
        held = dict.fromkeys(matrices_of(spec), "Q4_0")
        load_model(file, ReferenceBackend(np.float32), held_as=held)  # the kernel is compiled
        tracemalloc.start()
        model = load_model(file, ReferenceBackend(np.float32), held_as=held)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    dense = sum(4 * array.size for name, array in lively_weights(spec).items() if name not in held)
    matrix, blocks = 4 * 256 * 1024, sum(weight.matrix.n_bytes for weight in model.packed_weights().values())
    assert blocks <= kept < blocks + dense + 100_000
    assert peak - kept < matrix / 4
