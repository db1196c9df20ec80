"""Logits of GGUF files that we wrote, by our models and by llama.cpp: the same distribution at every position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.load import load_model
from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import lively_weights, tiny_spec, tokens_of, write_model
from tests.oracle.llama_cpp_logits import assert_same_model, llama_cpp_logits, open_llama, small_vocabulary

VOCAB_SIZE = 320
POSITIONS = 400

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_embeddings": True},
    "llama rope_freqs": {},
    "llama linear scaling": {"rope_scale": 0.25},
    "qwen2": {},
    "qwen2 tied": {"tie_embeddings": True},
    "qwen3": {"head_dim": 32, "rope_dimensions": 32},
}


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CpuBackend(threads=2)
    yield made
    made.close()


def spec_of(variant: str) -> DecoderSpec:
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "rope_dimensions": 16,
        "intermediate_size": 96,
        "vocab_size": VOCAB_SIZE,
        "context_length": 512,
        "rope_theta": 10000.0,
        "num_layers": 3,
    }
    return tiny_spec(variant.split(maxsplit=1)[0], **(sizes | VARIANTS[variant]))


def write_variant(path: Path, variant: str) -> Path:
    spec = spec_of(variant)
    weights = lively_weights(spec)
    if "rope_freqs" in variant:
        weights[ROPE_FREQS] = np.linspace(1, 8, spec.rope_dimensions // 2, dtype=np.float32)
    return write_model(path, spec, weights, metadata=small_vocabulary(VOCAB_SIZE))


def our_logits(path: Path, tokens: np.ndarray, backend: Any) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return load_model(file, backend).logits(tokens[None])[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_file_gives_our_logits_in_llama_cpp(variant: str, backend: Any, tmp_path: Path) -> None:
    path = write_variant(tmp_path / "model.gguf", variant)
    tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    theirs = llama_cpp_logits(path, tokens)
    print(variant, assert_same_model(theirs, our_logits(path, tokens, backend)))
    print(variant, assert_same_model(theirs, our_logits(path, tokens, ReferenceBackend(np.float32))))


@pytest.mark.parametrize(
    "keys",
    [
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
        {"rope.scaling.factor": 2.0, "rope.scale_linear": 4.0},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
    ],
    ids=str,
)
def test_rope_scaling_keys_mean_what_llama_cpp_takes_them_for(
    keys: dict[str, float | str], backend: Any, tmp_path: Path
) -> None:
    entries = [
        (f"llama.{key}", MetadataValue.string(value) if isinstance(value, str) else MetadataValue.float32(value))
        for key, value in keys.items()
    ]
    metadata = [*small_vocabulary(VOCAB_SIZE), *entries]
    path = write_model(tmp_path / "model.gguf", spec_of("llama"), metadata=metadata)
    tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    assert_same_model(llama_cpp_logits(path, tokens), our_logits(path, tokens, backend))


def test_rope_factors_matter(backend: Any, tmp_path: Path) -> None:
    """The oracle would notice if both sides ignored them."""
    tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    paths = [write_variant(tmp_path / f"{i}.gguf", name) for i, name in enumerate(("llama", "llama rope_freqs"))]
    plain, scaled = (our_logits(path, tokens, backend) for path in paths)
    with pytest.raises(AssertionError, match="mean KL"):
        assert_same_model(plain, scaled)


def test_a_real_model_gives_our_logits_on_real_text(backend: Any, shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "base-7m-f32.gguf"
    with GGUFFile.open(shared_data / "models" / "base-7m-f16.gguf") as file:
        entries = dict(file.metadata_entries()) | {"general.file_type": MetadataValue.uint32(0)}
        write_gguf(path, entries.items(), [encode_tensor(name, file.load(name), "F32") for name in file.tensors])
    text = (shared_data / "tinyshakespeare.txt").read_bytes()[1000:2600]
    with closing(open_llama(path, 512)) as llama:
        tokens = np.array(llama.tokenize(text, add_bos=False), np.int32)[:500]
    print("base-7m", assert_same_model(llama_cpp_logits(path, tokens), our_logits(path, tokens, backend)))
