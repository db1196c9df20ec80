"""Perplexity, divergence and agreement are what llama-perplexity computes.

llama.cpp's logits come from its library, and the program's formulas over them from `benchmarks.llama_perplexity`, which
shares no code with ours. On files in F32 with an F32 cache both engines compute the same, so every figure is compared;
on others llama.cpp rounds activations and we are asked to as well.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from benchmarks.llama_perplexity import Sums, llama_cpp_model, log_softmax
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.evaluation.arithmetic import llama_cpp_arithmetic, round_blocks
from entrenar_core.evaluation.divergence import Divergence, divergence
from entrenar_core.evaluation.likelihood import Perplexity, perplexity
from entrenar_core.evaluation.windows import Windows, llama_cpp_windows
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_mapped
from entrenar_core.threads import Threads
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.model.tiny import lively_weights, tiny_spec, write_model
from tests.oracle.llama_cpp_logits import small_vocabulary
from tests.oracle.test_quantized_models_llama_cpp import decoded, quantized

pytestmark = pytest.mark.oracle

VOCAB_SIZE = 320
CONTEXT = 64


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CpuBackend(threads=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole super-blocks, and which wants BOS in front of a text."""
    sizes = {"hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "rope_dimensions": 64}
    sizes |= {"intermediate_size": 256, "vocab_size": VOCAB_SIZE, "context_length": 512, "num_layers": 2}
    spec = tiny_spec("llama", **sizes)
    vocabulary = [
        *small_vocabulary(VOCAB_SIZE),
        ("tokenizer.ggml.bos_token_id", MetadataValue(ValueType.UINT32, 3)),
        ("tokenizer.ggml.add_bos_token", MetadataValue(ValueType.BOOL, True)),
    ]
    path = tmp_path_factory.mktemp("evaluation") / "source.gguf"
    return write_model(path, spec, lively_weights(spec), metadata=vocabulary)


def text_of(words: int) -> str:
    """Words of the vocabulary's letters."""
    rng = np.random.default_rng(1)
    return " ".join("".join(rng.choice(list("aeioulnrst"), 6)) for _ in range(words))


@contextmanager
def ours(backend: Any, *paths: Path, arithmetic: bool = False, cache: str = "F16") -> Iterator[list[LanguageModel]]:
    with ExitStack() as stack:
        models = [load_mapped(stack.enter_context(GGUFFile.open(path)), backend) for path in paths]
        for model in models if arithmetic else []:
            stack.enter_context(llama_cpp_arithmetic(model, cache_type=cache))
        yield models


def windows_of(path: Path, text: str, context: int, chunks: int | None = None) -> Windows:
    with GGUFFile.open(path) as file:
        tokenizer = tokenizer_from_metadata(file.metadata, str(path))
    ids = np.asarray(tokenizer.encode(text, add_special=True), np.int32)
    found = llama_cpp_windows(ids, context, bos_id=tokenizer.bos_id if tokenizer.add_bos else None)
    return found if chunks is None else found.first(chunks)


def theirs(
    path: Path, text: str, context: int, chunks: int | None = None, base: Path | None = None, **options: Any
) -> Sums:
    """llama.cpp's sums over the text, beside those of the base if there is one."""
    sums = Sums()
    with ExitStack() as stack:
        options = {"threads": 1, "n_ctx": context, **options}
        model = stack.enter_context(llama_cpp_model(path, **options))
        tokens = model.tokenize(text)
        if base is None:
            for logits, labels in model.scored_logits(tokens, chunks):
                sums.add(logits, labels)
            return sums
        reference = stack.enter_context(llama_cpp_model(base, **options))
        pairs = zip(model.scored_logits(tokens, chunks), reference.scored_logits(tokens, chunks), strict=True)
        for (logits, labels), (base_logits, _) in pairs:
            sums.add(logits, labels, log_softmax(base_logits))
    return sums


def flat(found: Divergence) -> dict[str, float]:
    """Its figures by name, percentiles too."""
    figures: dict[str, float] = {}
    for name, value in found.as_json().items():
        if isinstance(value, dict):
            figures |= {f"{name}.{share}": each for share, each in value.items()}
        elif isinstance(value, float):
            figures[name] = value
    return figures


def test_every_figure_is_llama_cpps_on_the_same_weights(source: Path, backend: Any, tmp_path: Path) -> None:
    """The reference and a model with its weights rounded to Q4_0, both written as F32: nothing else is rounded."""
    model = decoded(quantized(source, tmp_path, "q4_0"), tmp_path / "rounded.gguf")
    text = text_of(400)
    windows = windows_of(source, text, CONTEXT)
    assert windows.bos_id == 3 and windows.ids[0] == 3 and len(windows) > 8
    with ours(backend, model, source) as (loaded, reference):
        found = flat(divergence(loaded, reference, windows.batches()))
        alone = perplexity(loaded, windows.batches())
    sums = theirs(model, text, CONTEXT, base=source, float32_cache=True)
    expected = sums.divergences()
    assert found.keys() == expected.keys()
    assert expected["kl"] > 1e-3 and 0.2 < expected["same_top"] < 1
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-3, abs=2e-6), name
    for name in ("kl", "perplexity", "perplexity_error", "reference_perplexity"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert (alone.value, alone.standard_error) == pytest.approx(sums.perplexity(), rel=1e-4)
    assert alone.tokens == len(sums.nll) == windows.n_scored


@pytest.mark.parametrize("mix", ["f16", "bf16", "q8_0", "q4_0", "q4_k_m"])
def test_one_layer_rounds_its_inputs_as_llama_cpp_does(mix: str, backend: Any, tmp_path: Path) -> None:
    """With a single block less is left to chance: our logits are closer to llama.cpp's than the exact ones."""
    sizes = {"hidden_size": 256, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "rope_dimensions": 64}
    sizes |= {"intermediate_size": 256, "vocab_size": VOCAB_SIZE, "context_length": 512, "num_layers": 1}
    spec = tiny_spec("llama", **sizes)
    source = write_model(tmp_path / "s.gguf", spec, lively_weights(spec), metadata=small_vocabulary(VOCAB_SIZE))
    path = quantized(source, tmp_path, mix)
    text = text_of(60)
    windows = windows_of(path, text, CONTEXT, chunks=2)
    (batch,) = windows.batches()
    with llama_cpp_model(path, n_ctx=CONTEXT, threads=1) as llama:
        expected = np.stack([logits.copy() for logits, _ in llama.scored_logits(llama.tokenize(text), 2)])
    part = slice(CONTEXT // 2, CONTEXT - 1)
    with ours(backend, path) as (model,):
        exact = model.logits(batch.tokens)[:, part]
        with llama_cpp_arithmetic(model):
            rounded = model.logits(batch.tokens)[:, part]
    apart, exact_apart = (float(np.sqrt(np.square(each - expected).mean())) for each in (rounded, exact))
    print(f"{mix}: {apart:.1e} with llama.cpp's arithmetic, {exact_apart:.1e} exactly")
    assert apart < 0.9 * exact_apart


def test_activations_are_rounded_to_the_bit(rng: np.random.Generator) -> None:
    """Against the functions that llama.cpp itself calls."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the rounding is that of ggml's x86 code")
    import llama_cpp

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu.so"))))
    for exponent in (-20, -3, 0, 7):
        x = (rng.standard_normal(64 * 256) * 2.0**exponent).astype(np.float32)
        x[:256] = 0
        source = x.ctypes.data_as(ctypes.c_void_p)
        blocks = np.zeros(x.size // 32, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
        library.quantize_row_q8_0(source, blocks.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
        expected = blocks["q"] * blocks["d"].astype(np.float32)[:, None]
        np.testing.assert_array_equal(round_blocks(x, "Q8_0", Threads(1)), expected.reshape(-1))
        large = np.zeros(x.size // 256, np.dtype([("d", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)]))
        library.quantize_row_q8_K(source, large.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
        np.testing.assert_array_equal(
            round_blocks(x, "Q8_K", Threads(1)), (large["q"] * large["d"][:, None]).reshape(-1)
        )


def real_figures(
    shared_data: Path, folder: Path, backend: Any, mix: str, chunks: int, context: int = 512
) -> tuple[Perplexity, Divergence, dict[str, float]]:
    """Of the shared model in a mix: ours exactly, ours in llama.cpp's arithmetic, and llama.cpp's."""
    base = shared_data / "models" / "base-7m-f16.gguf"
    path = base if mix == "f16" else quantized(base, folder, mix)
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    windows = windows_of(base, text, context, chunks)
    with ours(backend, path) as (model,):
        exact = perplexity(model, windows.batches())
    with ours(backend, path, base, arithmetic=True) as (model, reference):
        rounded = divergence(model, reference, windows.batches())
    sums = theirs(path, text, context, chunks, base=base)
    return exact, rounded, sums.divergences() if mix != "f16" else {"perplexity": sums.perplexity()[0]}


@pytest.mark.slow
def test_perplexity_of_a_real_model_in_f16(shared_data: Path, backend: Any, tmp_path: Path) -> None:
    """Within 0.1 %, in either arithmetic."""
    exact, rounded, expected = real_figures(shared_data, tmp_path, backend, "f16", 4)
    value = expected["perplexity"]
    print(f"f16: {exact.value:.4f} exactly, {rounded.cost.value:.4f} rounded, {value:.4f} by llama.cpp")
    assert exact.value == pytest.approx(value, rel=1e-3)
    assert rounded.cost.value == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("mix", "chunks", "kl"),
    [
        ("q4_0", 4, 0.02),
        pytest.param("q8_0", 160, 0.02, marks=pytest.mark.slow),
        pytest.param("q4_0", 160, 0.005, marks=pytest.mark.slow),
        pytest.param("q4_k_m", 160, 0.005, marks=pytest.mark.slow),
    ],
)
def test_a_real_model_in_few_bits(
    mix: str, chunks: int, kl: float, shared_data: Path, backend: Any, tmp_path: Path
) -> None:
    """Perplexity and agreement within 0.5 %; the divergence too, where there are tokens enough."""
    exact, rounded, expected = real_figures(shared_data, tmp_path, backend, mix, chunks)
    apart = {name: value / expected[name] - 1 for name, value in flat(rounded).items() if name in ("kl", "same_top")}
    print(f"{mix}, {chunks} chunks: perplexity {exact.value / expected['perplexity'] - 1:+.3%} exactly, {apart}")
    assert exact.value == pytest.approx(expected["perplexity"], rel=5e-3)
    assert rounded.cost.value == pytest.approx(expected["perplexity"], rel=5e-3)
    assert rounded.kl.value == pytest.approx(expected["kl"], rel=kl)
    assert rounded.same_top.value == pytest.approx(expected["same_top"], abs=5e-3)
