"""Inputs and outputs of a merge against transformers, PEFT and llama.cpp: the same model whatever its files are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: oracle)")
peft = pytest.importorskip("peft", reason="peft is not installed (extra: oracle)")
pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend  # noqa: E402
from entrenar_core.codecs.registry import codec_for  # noqa: E402
from entrenar_core.gguf.reader import GGUFFile  # noqa: E402
from entrenar_core.merge.gguf_output import GGUFOutput  # noqa: E402
from entrenar_core.merge.hugging_face_output import HuggingFaceOutput  # noqa: E402
from entrenar_core.merge.model_tensors import ModelTensors, matrix_shape  # noqa: E402
from entrenar_core.merge.models import open_model  # noqa: E402
from entrenar_core.merge.output import Output  # noqa: E402
from entrenar_core.model.load import load_model  # noqa: E402
from tests.model.tiny import tokens_of  # noqa: E402
from tests.oracle.hugging_face import CASES, VOCAB_SIZE, make_pair  # noqa: E402
from tests.oracle.llama_cpp_logits import assert_same_model, llama_cpp_logits  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and peft about themselves

T = 48


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(model: ModelTensors, name: str) -> np.ndarray:
    out = np.empty(matrix_shape(model.shapes[name]), np.float32)
    model.read(name, 0, out)
    return out


def write(output: Output, model: ModelTensors) -> None:
    """All tensors, a few rows at a time."""
    with output.opened() as sink:
        for name in model.shapes:
            packed = codec_for("F32").encode(rows_of(model, name))
            for row in range(0, len(packed), 7):
                sink.write(name, row, packed[row : row + 7])


def specs_of(model: ModelTensors) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, shape, "F32") for name, shape in model.shapes.items()]


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.array(model(torch.from_numpy(tokens[None]).long()).logits[0], np.float32)


def our_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    with closing(CpuBackend(1)) as backend, GGUFFile.open(path) as file:
        model = load_model(file, backend)
        return np.array(model.logits(tokens[None])[0], np.float32)


@pytest.mark.parametrize("case", list(CASES))
def test_a_folder_of_transformers_becomes_a_gguf_and_a_folder_again(case: str, tmp_path: Path) -> None:
    pair = make_pair(case, torch.float32)
    pair.hf.save_pretrained(tmp_path / "hf")
    tokens = tokens_of(T, vocab_size=VOCAB_SIZE)
    expected = their_logits(pair.hf, tokens)
    with closing(open_model(tmp_path / "hf")) as model:
        for name, values in pair.weights().items():
            np.testing.assert_array_equal(rows_of(model, name).reshape(values.shape), values, err_msg=name)
        factors = rows_of(model, "rope_freqs.weight")[0] if "rope_freqs.weight" in model.shapes else None
        if pair.rope_factors is not None:
            np.testing.assert_allclose(factors, pair.rope_factors, rtol=1e-6)
        write(GGUFOutput(tmp_path / "m.gguf", model.metadata, specs_of(model)), model)
        write(HuggingFaceOutput(tmp_path / "again", model.metadata, specs_of(model), rope_factors=factors), model)
    np.testing.assert_allclose(our_logits(tmp_path / "m.gguf", tokens), expected, atol=2e-4)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)
    np.testing.assert_allclose(their_logits(again.eval(), tokens), expected, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3 tied"])
def test_rows_with_an_adapter_are_those_that_peft_merges(case: str, rslora: bool, tmp_path: Path) -> None:
    logging.getLogger("peft").setLevel(logging.ERROR)
    pair = make_pair(case, torch.float32)
    pair.hf.save_pretrained(tmp_path / "hf")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj"], use_rslora=rslora, task_type="CAUSAL_LM",
        rank_pattern={"k_proj": 2}, alpha_pattern={"down_proj": 3},
    )  # fmt: skip
    adapted = peft.get_peft_model(pair.hf, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    adapted.save_pretrained(tmp_path / "peft")
    merged = adapted.merge_and_unload()
    wanted = type(pair)(merged, pair.spec, pair.rope_factors).weights()
    changed = set()
    with closing(open_model(tmp_path / "hf", tmp_path / "peft")) as model, closing(open_model(tmp_path / "hf")) as base:
        for name, values in wanted.items():
            rows = rows_of(model, name)
            np.testing.assert_allclose(rows.reshape(values.shape), values, atol=1e-6, err_msg=name)
            if np.abs(rows - rows_of(base, name)).max() > 1e-3:
                changed.add(name.split(".")[2])
    assert changed == {"attn_q", "attn_k", "ffn_down"}


def test_a_gguf_made_of_a_folder_is_the_same_model_in_llama_cpp(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "models" / "base-7m-hf"
    tokens = tokens_of(T, vocab_size=4096)
    with closing(open_model(folder)) as model:
        write(GGUFOutput(tmp_path / "m.gguf", model.metadata, specs_of(model)), model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_same_model(llama_cpp_logits(tmp_path / "m.gguf", tokens), their_logits(theirs, tokens))


def test_a_folder_made_of_a_gguf_has_its_tokenizer_and_its_logits(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "models" / "base-7m-f16.gguf"
    with closing(open_model(path)) as model:
        write(HuggingFaceOutput(tmp_path / "hf", model.metadata, specs_of(model), shard_bytes=8_000_000), model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    known = transformers.AutoTokenizer.from_pretrained(shared_data / "models" / "base-7m-hf")
    text = "First Citizen:\n  We have 12345 apples, don't we?<|endoftext|> ROMEO"
    assert tokenizer(text)["input_ids"] == known(text)["input_ids"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|endoftext|>")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokens = np.array(tokenizer(text)["input_ids"], np.int32)
    np.testing.assert_allclose(their_logits(theirs, tokens), our_logits(path, tokens), atol=2e-3)
