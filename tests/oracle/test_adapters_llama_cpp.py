"""LoRA adapters that we wrote, applied by llama.cpp or folded into the model: our adapted logits both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import adapter_pairs, attach_adapter, read_adapter, write_adapter
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_model
from entrenar_core.quant.encoding import plain_encodings
from entrenar_core.stages.changes import Changes
from entrenar_core.stages.export import ModelForm, export_over_base
from tests.model.tiny import lively, tiny_spec, tokens_of, write_model
from tests.oracle.llama_cpp_logits import assert_same_model, distance, llama_cpp_logits, small_vocabulary

VOCAB_SIZE = 320
POSITIONS = 300
SETTINGS = {
    "lora": LoRASettings(rank=4, alpha=6.0),
    "rslora": LoRASettings(rank=4, alpha=6.0, rslora=True),
    "q and down": LoRASettings(rank=3, alpha=6.0, targets=("q_proj", "down_proj")),
}


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CpuBackend(threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model as an F32 file."""
    spec = tiny_spec(
        request.param,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rope_dimensions=16,
        intermediate_size=96,
        vocab_size=VOCAB_SIZE,
        context_length=512,
    )
    path = tmp_path_factory.mktemp("base") / f"{request.param}.gguf"
    return write_model(path, spec, metadata=small_vocabulary(VOCAB_SIZE))


def adapted(base: Path, settings: LoRASettings, backend: Any) -> LanguageModel:
    """The base with adapters as a training would leave them: neither A nor B is zero."""
    with GGUFFile.open(base) as file:
        model = load_model(file, backend)
    for name, tensor in inject_lora(model, settings, seed=1).items():
        if name.endswith(".lora_b"):
            tensor.assign(lively(name, tensor.shape))
    return model


@pytest.mark.parametrize("kind", SETTINGS)
def test_llama_cpp_applies_our_adapter_as_we_do(kind: str, base: Path, backend: Any, tmp_path: Path) -> None:
    settings, tokens = SETTINGS[kind], tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    model = adapted(base, settings, backend)
    path = tmp_path / "adapter.gguf"
    write_adapter(path, model.spec.architecture, adapter_pairs(model), settings.alpha)
    ours = model.logits(tokens[None])[0]
    theirs = llama_cpp_logits(base, tokens, adapter=path)
    print(base.stem, kind, assert_same_model(theirs, ours))
    plain = llama_cpp_logits(base, tokens)
    assert distance(plain, ours).mean_kl > 0.01  # the adapter did something


def test_llama_cpp_applies_an_adapter_in_f16(base: Path, backend: Any, tmp_path: Path) -> None:
    settings, tokens = SETTINGS["lora"], tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    model = adapted(base, settings, backend)
    path = tmp_path / "adapter.gguf"
    write_adapter(path, model.spec.architecture, adapter_pairs(model), settings.alpha, type_name="F16")
    with GGUFFile.open(base) as file:
        loaded = load_model(file, backend)
    attach_adapter(loaded, read_adapter(path, loaded.spec.architecture), str(path))
    ours, theirs = loaded.logits(tokens[None])[0], llama_cpp_logits(base, tokens, adapter=path)
    found = distance(theirs, ours)  # it rounds what A and B are multiplied with to F16 too
    print(base.stem, found)
    assert found.mean_kl < 1e-5
    assert distance(theirs, model.logits(tokens[None])[0]).mean_kl < 1e-5


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_adapter_file_that_we_read_gives_the_same_logits(
    kind: str, base: Path, backend: Any, tmp_path: Path
) -> None:
    settings, tokens = SETTINGS[kind], tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    model = adapted(base, settings, backend)
    path = tmp_path / "adapter.gguf"
    write_adapter(path, model.spec.architecture, adapter_pairs(model), settings.alpha)
    with GGUFFile.open(base) as file:
        loaded = load_model(file, backend)
    attach_adapter(loaded, read_adapter(path, loaded.spec.architecture), str(path))
    assert_same_model(loaded.logits(tokens[None])[0], model.logits(tokens[None])[0])


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_the_merged_model_gives_our_adapted_logits_in_llama_cpp(
    kind: str, base: Path, backend: Any, tmp_path: Path
) -> None:
    tokens = tokens_of(POSITIONS, vocab_size=VOCAB_SIZE)
    model = adapted(base, SETTINGS[kind], backend)
    path = tmp_path / "merged.gguf"
    with GGUFFile.open(base) as file:
        types = plain_encodings({name: info.type_name for name, info in file.tensors.items()})
        export_over_base(path, file, Changes.of(model, file).values(), ModelForm(types), SilentReporter())
    print(base.stem, kind, assert_same_model(llama_cpp_logits(path, tokens), model.logits(tokens[None])[0]))
