"""Merged models: llama.cpp loads what is made of files of several kinds, and computes from the same weights as we do.

The logits are compared on the file's values written out as F32; see `test_quantized_models_llama_cpp`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.merge import run_merge
from tests.lora.test_peft_files import write_peft
from tests.merge.memory_models import merge_of
from tests.model.tiny import lively_weights, tiny_spec, tokens_of, write_model
from tests.oracle.llama_cpp_logits import assert_same_model, distance, llama_cpp_logits, small_vocabulary
from tests.oracle.test_quantized_models_llama_cpp import decoded, our_logits, quantized

VOCAB_SIZE = 320
POSITIONS = 200

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, its relatives in Q4_0 and Q8_0, and a PEFT adapter for it."""
    folder = tmp_path_factory.mktemp("merged")
    sizes = {"hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "rope_dimensions": 64}
    sizes |= {"intermediate_size": 512, "vocab_size": VOCAB_SIZE, "context_length": 512, "num_layers": 3}
    spec = tiny_spec("llama", **sizes)
    weights = lively_weights(spec)
    write_model(folder / "base.gguf", spec, weights, metadata=small_vocabulary(VOCAB_SIZE))
    for number, mix in enumerate(("q4_0", "q8_0")):
        draw = np.random.default_rng(number)
        changed = {
            name: values + 0.01 * draw.standard_normal(values.shape).astype(np.float32)
            for name, values in weights.items()
        }
        path = write_model(folder / f"{number}.gguf", spec, changed, metadata=small_vocabulary(VOCAB_SIZE))
        quantized(path, folder, mix)
    draw = np.random.default_rng(5)
    prefix = "base_model.model.model.layers.1."
    shapes = {"self_attn.q_proj": (256, 256), "mlp.down_proj": (256, 512)}
    arrays = {}
    for module, (n_out, n_in) in shapes.items():
        arrays[f"{prefix}{module}.lora_A.weight"] = 0.1 * draw.standard_normal((3, n_in)).astype(np.float32)
        arrays[f"{prefix}{module}.lora_B.weight"] = 0.1 * draw.standard_normal((n_out, 3)).astype(np.float32)
    write_peft(folder / "peft", arrays)
    return folder


def assert_llama_cpp_agrees(path: Path) -> None:
    backend: Any = CpuBackend(threads=2)
    try:
        tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
        ours = our_logits(path, tokens, backend)
        assert_same_model(llama_cpp_logits(decoded(path, path.with_suffix(".f32.gguf")), tokens), ours)
        loaded = distance(llama_cpp_logits(path, tokens), ours)
        assert loaded.mean_kl < 0.02, f"llama.cpp computes something else from the file itself: {loaded}"
    finally:
        backend.close()


def test_blocks_of_two_kinds_and_an_adapter_become_a_mix(inputs: Path, tmp_path: Path) -> None:
    base = str(inputs / "base.gguf")
    adapted = {"path": base, "adapter": str(inputs / "peft")}
    models = [str(inputs / "q4_0.gguf"), str(inputs / "q8_0.gguf"), adapted]
    output = {"path": str(tmp_path / "out.gguf"), "type": "q4_k_m"}
    run_merge(merge_of("ties", models, output, base=base, density=0.5), SilentReporter())
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert {info.type_name for info in file.tensors.values()} == {"Q4_K", "Q6_K", "F32"}
    assert_llama_cpp_agrees(tmp_path / "out.gguf")


def test_stacked_layers_are_a_deeper_model(inputs: Path, tmp_path: Path) -> None:
    slices = [
        {"sources": [{"path": str(inputs / f"{name}.gguf"), "layers": layers}]}
        for name, layers in (("q8_0", [0, 2]), ("base", [1, 3]), ("q8_0", [2, 3]))
    ]
    run_merge(merge_of("passthrough", None, {"path": str(tmp_path / "out.gguf")}, slices=slices), SilentReporter())
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert file.metadata["llama.block_count"] == 5
    assert_llama_cpp_agrees(tmp_path / "out.gguf")


@pytest.mark.parametrize("method", ["slerp", "dare_linear"])
def test_a_merge_of_a_gguf_and_a_folder_is_loaded(method: str, inputs: Path, tmp_path: Path) -> None:
    """The folder is itself the result of a merge."""
    folder = str(tmp_path / "folder")
    base, other = str(inputs / "base.gguf"), str(inputs / "q8_0.gguf")
    written = {"path": folder, "format": "safetensors", "type": "f16"}
    run_merge(merge_of("linear", [base, str(inputs / "q4_0.gguf")], written), SilentReporter())
    more = {} if method == "slerp" else {"base": base, "density": 0.6}
    output = {"path": str(tmp_path / "out.gguf"), "type": "q8_0"}
    run_merge(merge_of(method, [folder, other], output, **more), SilentReporter())
    assert_llama_cpp_agrees(tmp_path / "out.gguf")
