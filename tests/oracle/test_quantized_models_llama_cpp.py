"""Models in few bits: llama.cpp loads every mix that we write, and computes from the same weights as we do.

llama.cpp quantizes the activations too when it multiplies by blocks, so the logits are compared on the file's values
written out as F32, which is the same function of the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.quantize_file import Option, quantize_config
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.load import load_model
from entrenar_core.stages.quantize import run_quantize
from tests.model.tiny import lively_weights, tiny_spec, tokens_of, write_model
from tests.oracle.llama_cpp_logits import assert_same_model, distance, llama_cpp_logits, open_llama, small_vocabulary

VOCAB_SIZE = 320
POSITIONS = 300
MIXES = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s",
    "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "f16", "bf16", "f32",
)  # fmt: skip

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CpuBackend(threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole super-blocks of 256, and one head's worth of rows that are not."""
    sizes = {"hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "rope_dimensions": 64}
    sizes |= {"intermediate_size": 288, "vocab_size": VOCAB_SIZE, "context_length": 512, "num_layers": 3}
    spec = tiny_spec("llama", **sizes)
    path = tmp_path_factory.mktemp("quantized") / "source.gguf"
    return write_model(path, spec, lively_weights(spec), metadata=small_vocabulary(VOCAB_SIZE))


def quantized(source: Path, folder: Path, mix: str) -> Path:
    target = folder / f"{mix}.gguf"
    options = [
        Option("MODEL", ("model", "path"), str(source)),
        Option("-o", ("output", "path"), str(target)),
        Option("--type", ("quantize", "type"), mix),
    ]
    run_quantize(quantize_config(None, options), SilentReporter())
    return target


def decoded(path: Path, target: Path) -> Path:
    """The same values, all as F32."""
    with GGUFFile.open(path) as file:
        write_gguf(
            target,
            [entry for entry in file.metadata_entries() if entry[0] != "general.file_type"],
            [encode_tensor(name, file.load(name), "F32") for name in file.tensors],
        )
    return target


def our_logits(path: Path, tokens: np.ndarray, backend: Any) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return load_model(file, backend).logits(tokens[None])[0]


@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_is_the_same_model_in_llama_cpp(mix: str, source: Path, backend: Any, tmp_path: Path) -> None:
    path = quantized(source, tmp_path, mix)
    tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    ours = our_logits(path, tokens, backend)
    print(mix, assert_same_model(llama_cpp_logits(decoded(path, tmp_path / "f32.gguf"), tokens), ours))
    loaded = distance(llama_cpp_logits(path, tokens), ours)
    assert loaded.mean_kl < 0.02, f"llama.cpp computes something else from the file itself: {loaded}"


@pytest.mark.parametrize("mix", ["q4_0", "q8_0", "q4_k_m", "q6_k"])
def test_a_real_model_is_the_same_in_llama_cpp(mix: str, shared_data: Path, backend: Any, tmp_path: Path) -> None:
    path = quantized(shared_data / "models" / "base-7m-f16.gguf", tmp_path, mix)
    text = (shared_data / "tinyshakespeare.txt").read_bytes()[1000:2600]
    with closing(open_llama(path, 512)) as llama:
        tokens = np.array(llama.tokenize(text, add_bos=False), np.int32)[:500]
    theirs = llama_cpp_logits(decoded(path, tmp_path / "f32.gguf"), tokens)
    print(mix, assert_same_model(theirs, our_logits(path, tokens, backend)))
