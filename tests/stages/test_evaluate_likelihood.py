"""What `entrenar eval` promises of texts: windows, a reference, llama.cpp's arithmetic, options that fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.errors import ConfigError, DataError, ModelError, OutputError
from entrenar_core.evaluation.divergence import divergence
from entrenar_core.evaluation.likelihood import perplexity
from entrenar_core.evaluation.windows import llama_cpp_windows, sliding_windows
from entrenar_core.events import Notice, Progress
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.load import load_mapped
from entrenar_core.stages.evaluate import run_evaluation
from entrenar_core.stages.evaluate_perplexity import LikelihoodResult
from entrenar_core.stages.evaluation_output import EvaluationOutput
from entrenar_core.stages.evaluation_settings import Arithmetic, EvaluationSettings, LikelihoodSettings, WindowKind
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.stages.head_folder import MOODS, write_run
from tests.stages.tiny_base import train, write_base, write_data
from tests.train.tiny_model import Listener

SENTENCES = ["Ada saw a red ball.", "Bo saw an old key.", "It was a very good day for them all."] * 8
TEXT = " ".join(SENTENCES)
CONTEXT = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``base.gguf``, ``small.gguf`` (the same in Q8_0), ``train.parquet`` and ``text.txt``."""
    write_base(tmp_path / "base.gguf")
    write_base(tmp_path / "small.gguf", type_name="Q8_0")
    write_data(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT + "\n")
    return tmp_path


def measure(model: Path, data: Path, listener: Listener | None = None, **likelihood: Any) -> LikelihoodResult:
    others = {name: likelihood.pop(name) for name in ("limit", "seq_len", "adapter", "task") if name in likelihood}
    settings = EvaluationSettings(threads=1, likelihood=LikelihoodSettings(**likelihood), **others)
    report = run_evaluation([model], str(data), settings=settings, reporter=listener or Listener())
    result = report.models[0].result
    assert isinstance(result, LikelihoodResult)
    json.dumps(report.document(), allow_nan=False)
    return result


def ids_of(model: Path, text: str) -> np.ndarray:
    with GGUFFile.open(model) as file:
        tokenizer = tokenizer_from_metadata(file.metadata, str(model))
        return np.asarray(tokenizer.encode(text, add_special=True), np.int32)


def test_a_plain_text_is_read_in_windows_of_llama_cpp(folder: Path) -> None:
    model = folder / "base.gguf"
    listener = Listener()
    found = measure(model, folder / "text.txt", listener, context=CONTEXT)
    windows = llama_cpp_windows(ids_of(model, TEXT), CONTEXT)
    backend = CpuBackend(1)
    try:
        with GGUFFile.open(model) as file:
            expected = perplexity(load_mapped(file, backend), windows.batches())
    finally:
        backend.close()
    assert (found.cost.value, found.cost.tokens) == (expected.value, windows.n_scored)
    assert f"{len(windows)} windows of {CONTEXT} tokens" in found.reading
    assert listener.of(Progress)[-1] == Progress("evaluating", len(windows), len(windows))
    assert any("plain text" in notice.message or "--ctx" in notice.message for notice in listener.of(Notice))


def test_sliding_windows_score_every_token(folder: Path) -> None:
    model, data = folder / "base.gguf", folder / "text.txt"
    found = measure(model, data, windows=WindowKind.SLIDING, context=CONTEXT, stride=4)
    assert found.cost.tokens == len(ids_of(model, TEXT)) - 1
    assert found.cost.n_bytes is not None and len(TEXT) - 8 < found.cost.n_bytes <= len(TEXT)
    half = measure(model, data, windows=WindowKind.SLIDING, context=CONTEXT, chunks=3)
    assert half.cost.tokens == sliding_windows(ids_of(model, TEXT), CONTEXT, CONTEXT // 2).first(3).n_scored


def test_rows_of_texts_can_be_read_as_one(folder: Path) -> None:
    data = folder / "texts.parquet"
    pq.write_table(pa.table({"text": SENTENCES}), data)
    (folder / "joined.txt").write_text("\n\n".join(SENTENCES))
    asked: dict[str, Any] = {"windows": WindowKind.LLAMA_CPP, "context": CONTEXT}
    joined = measure(folder / "base.gguf", folder / "joined.txt", **asked)
    assert measure(folder / "base.gguf", data, **asked).cost == joined.cost
    assert "each row by itself" in measure(folder / "base.gguf", data).reading
    with pytest.raises(ConfigError, match="windows are cut out of texts"):
        measure(folder / "base.gguf", folder / "train.parquet", **asked)


def test_a_reference_is_compared_with(folder: Path) -> None:
    model, reference, data = folder / "small.gguf", folder / "base.gguf", folder / "text.txt"
    found = measure(model, data, reference=reference, context=CONTEXT)
    alone = measure(model, data, context=CONTEXT)
    backend = CpuBackend(1)
    try:
        with GGUFFile.open(model) as file, GGUFFile.open(reference) as other:
            models = [load_mapped(each, backend) for each in (file, other)]
            expected = divergence(*models, llama_cpp_windows(ids_of(model, TEXT), CONTEXT).batches())
    finally:
        backend.close()
    assert found.divergence is not None
    assert found.divergence.kl == expected.kl
    assert found.cost.value == pytest.approx(alone.cost.value, rel=1e-6)
    assert found.cost.bits_per_byte == pytest.approx(alone.cost.bits_per_byte, rel=1e-6)
    assert 0 < found.figures["KL"] < 0.1 < found.figures["same top"] <= 1  # type: ignore[operator]
    itself = measure(model, data, reference=model, context=CONTEXT)
    assert (itself.figures["KL"], itself.figures["same top"]) == (0, 1)


def test_a_reference_of_another_vocabulary_is_refused(folder: Path) -> None:
    other = folder / "other.gguf"
    with GGUFFile.open(folder / "base.gguf") as file:
        entries = dict(file.metadata_entries())
        tokens = list(entries["tokenizer.ggml.tokens"].value)
        tokens[-2:] = tokens[:-3:-1]
        entries["tokenizer.ggml.tokens"] = MetadataValue.array(ValueType.STRING, tokens)
        write_gguf(other, entries.items(), [encode_tensor(name, file.load(name), "F32") for name in file.tensors])
    with pytest.raises(ModelError, match=f"2 of {len(tokens)} tokens differ") as caught:
        measure(folder / "base.gguf", folder / "text.txt", reference=other, context=CONTEXT)
    assert caught.value.where == str(folder / "base.gguf")


def test_llama_cpps_arithmetic_rounds_activations(folder: Path) -> None:
    data = folder / "text.txt"
    exact, rounded = (
        measure(folder / "small.gguf", data, context=CONTEXT, reference=folder / "base.gguf", arithmetic=each)
        for each in Arithmetic
    )
    assert rounded.arithmetic is Arithmetic.LLAMA_CPP
    assert rounded.cost.value != exact.cost.value
    assert rounded.cost.value == pytest.approx(exact.cost.value, rel=0.02)


def test_an_adapter_is_not_computed_as_llama_cpp_does(folder: Path) -> None:
    train(folder, training={"max_steps": 2})
    adapter = folder / "run" / "adapter.gguf"
    with pytest.raises(ConfigError, match="computed with an adapter") as caught:
        measure(folder / "base.gguf", folder / "text.txt", adapter=adapter, arithmetic=Arithmetic.LLAMA_CPP)
    assert caught.value.where == "--arithmetic"
    beside = measure(folder / "base.gguf", folder / "train.parquet", adapter=adapter, reference=folder / "base.gguf")
    assert beside.figures["KL"] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("data", "options", "where"),
    [
        ("text.txt", {"context": 4096}, "--ctx"),
        ("text.txt", {"stride": 4}, "--stride"),
        ("text.txt", {"limit": 2}, "--limit"),
        ("text.txt", {"seq_len": 20}, "--seq-len"),
        ("train.parquet", {"chunks": 2}, "--chunks"),
        ("train.parquet", {"context": CONTEXT}, "--ctx"),
        ("train.parquet", {"stride": 2}, "--stride"),
        ("train.parquet", {"chunks": 2, "task": "multiple-choice"}, "--chunks"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, data: str, options: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        measure(folder / "base.gguf", folder / data, **options)
    assert caught.value.where == where and caught.value.hint


def test_a_text_that_is_too_short_is_refused_with_its_name(folder: Path) -> None:
    (folder / "short.txt").write_text("Ada saw a red ball.")
    with pytest.raises(DataError, match="two windows of 16") as caught:
        measure(folder / "base.gguf", folder / "short.txt", context=CONTEXT)
    assert caught.value.where == str(folder / "short.txt")


def test_a_head_predicts_no_tokens(folder: Path) -> None:
    write_run(folder, MOODS)
    with pytest.raises(ConfigError, match="answers with a head"):
        measure(folder / "small.gguf", folder / "text.txt", reference=folder / "run")


def test_the_reference_is_not_written_over(folder: Path) -> None:
    settings = EvaluationSettings(likelihood=LikelihoodSettings(reference=folder / "small.gguf"))
    output = EvaluationOutput(report=folder / "small.gguf", overwrite=True)
    with pytest.raises(OutputError, match="read"):
        run_evaluation(
            [folder / "base.gguf"],
            str(folder / "text.txt"),
            settings=settings,
            output=output,
            reporter=Listener(),
        )
