"""The rounding of inputs: values by hand, where it is applied, and that nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.autograd.tape import Tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError, ModelError
from entrenar_core.evaluation.arithmetic import RoundedInputs, llama_cpp_arithmetic, round_blocks
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_mapped
from entrenar_core.threads import Threads
from tests.model.tiny import build, tiny_spec, tokens_of, write_model

THREADS = Threads(1)
BACKEND = ReferenceBackend(np.float32)
SIZES = {"Q8_0": 32, "Q8_K": 256}


@pytest.mark.parametrize("type_name", SIZES)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-30, 4))
def test_a_block_becomes_127_steps_of_its_largest_value(type_name: str, seed: int, exponent: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, SIZES[type_name])).astype(np.float32) * np.float32(
        2.0**exponent
    )
    largest = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.float32(127) / largest
    levels = np.rint(x * inverse)
    scale = (largest / np.float32(127)).astype(np.float16).astype(np.float32) if type_name == "Q8_0" else 1 / inverse
    np.testing.assert_array_equal(round_blocks(x, type_name, THREADS), levels * scale)
    assert np.abs(levels).max() == 127


@pytest.mark.parametrize("type_name", SIZES)
def test_a_block_of_zeros_stays_zero_and_nan_stays_nan(type_name: str) -> None:
    x = np.zeros((2, SIZES[type_name]), np.float32)
    x[1, 3] = np.nan
    found = round_blocks(x, type_name, THREADS)
    assert not found[0].any() and np.isnan(found[1]).any()


def test_blocks_are_rounded_by_themselves_on_any_number_of_threads(rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 70, 512)).astype(np.float32)
    threads = Threads(3)
    try:
        for type_name in SIZES:
            found = round_blocks(x, type_name, threads)
            assert found.shape == x.shape
            np.testing.assert_array_equal(found[2, 7], round_blocks(x[2, 7], type_name, THREADS))
    finally:
        threads.close()


def test_floats_are_rounded_to_their_halves() -> None:
    x = Tensor(BACKEND.asarray(np.array([[1 + 2.0**-11, 1 + 3 * 2.0**-11, 0.1]], np.float32)), BACKEND)
    halves = RoundedInputs("F16", THREADS).rounded(x).numpy()
    np.testing.assert_array_equal(halves, np.array([[1, 1 + 2.0**-9, np.float16(0.1)]], np.float32))
    assert RoundedInputs("BF16", THREADS).rounded(x).numpy()[0, 1] == 1


def test_an_input_that_layers_share_is_rounded_once() -> None:
    x = Tensor(BACKEND.asarray(np.ones((2, 32), np.float32)), BACKEND)
    rounding = RoundedInputs("Q8_0", THREADS)
    assert rounding.rounded(x) is rounding.rounded(x)
    assert rounding.rounded(Tensor(x.data, BACKEND)) is not rounding.rounded(x)


def test_rounding_has_no_gradient_and_says_so() -> None:
    x = Tensor(BACKEND.asarray(np.ones((2, 32), np.float32)), BACKEND)
    with Tape(), pytest.raises(AutogradError, match="no gradient"):
        RoundedInputs("Q8_0", THREADS).rounded(x)


@contextmanager
def mapped(path: Path) -> Iterator[LanguageModel]:
    with GGUFFile.open(path) as file:
        yield load_mapped(file, BACKEND)


SPEC = tiny_spec(hidden_size=64, intermediate_size=96, head_dim=32, rope_dimensions=32)
TOKENS = tokens_of(2, 9)


def test_f32_matrices_and_an_f32_cache_are_exact(tmp_path: Path) -> None:
    with mapped(write_model(tmp_path / "m.gguf", SPEC)) as model:
        expected = model.logits(TOKENS)
        with llama_cpp_arithmetic(model, cache_type="F32"):
            np.testing.assert_array_equal(model.logits(TOKENS), expected)
        with llama_cpp_arithmetic(model):
            assert np.abs(model.logits(TOKENS) - expected).max() > 1e-6, "keys and values are not rounded"
        np.testing.assert_array_equal(model.logits(TOKENS), expected)


def test_every_input_of_a_matrix_is_rounded_for_its_type(tmp_path: Path) -> None:
    """The model whose layers are shown their inputs, multiplied by hand from the rounded ones."""
    with mapped(write_model(tmp_path / "m.gguf", SPEC, type_name="F16")) as model:
        seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        with llama_cpp_arithmetic(model, cache_type="F32"):
            for layer in (model.blocks[0].attention.attn_q, model.blocks[1].feed_forward.ffn_down, model.output):
                x = np.random.default_rng(0).standard_normal((3, layer.weight.shape[1])).astype(np.float32)
                with no_grad():
                    seen[layer.name] = (x, layer.forward(Tensor(BACKEND.asarray(x), BACKEND), None).numpy())
        assert len(seen) == 3
        for layer in (model.blocks[0].attention.attn_q, model.blocks[1].feed_forward.ffn_down, model.output):
            x, y = seen[layer.name]
            halves = x.astype(np.float16).astype(np.float32)
            np.testing.assert_allclose(y, halves @ layer.effective_weight().T, rtol=1e-4, atol=1e-5)
            assert np.abs(y - x @ layer.effective_weight().T).max() > 1e-5


def test_an_error_inside_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    with mapped(write_model(tmp_path / "m.gguf", SPEC, type_name="F16")) as model:
        expected = model.logits(TOKENS)
        with pytest.raises(ZeroDivisionError), llama_cpp_arithmetic(model):
            raise ZeroDivisionError
        np.testing.assert_array_equal(model.logits(TOKENS), expected)


def test_models_that_are_not_as_in_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="file's matrices") as caught, llama_cpp_arithmetic(build(SPEC)):
        pass
    assert caught.value.where == "layer blk.0.attn_q"
    with mapped(write_model(tmp_path / "m.gguf", SPEC)) as model:
        inject_lora(model, LoRASettings(rank=2, alpha=4, targets=("q_proj",)), seed=0)
        with pytest.raises(ModelError, match="file's matrices"), llama_cpp_arithmetic(model):
            pass
