"""The page on GPUs has the numbers and messages of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entrenar_core.backend.gpu_worth import Work, worth_a_gpu
from entrenar_core.config.load import load_config

_ROW = re.compile(r"\| (LoRA|all weights|evaluating|generating) .*?(\d+)M parameters .*\(([\d.]+) GB\) \| ([\d,]+) \|")


@pytest.fixture
def page(project_root: Path) -> str:
    return (project_root / "docs" / "gpu.md").read_text(encoding="utf-8")


def work_of(kind: str, parameters: int, n_bytes: int, tokens: int) -> Work:
    if kind == "generating":
        return Work("generate", parameters, n_bytes, 0, written=tokens)
    if kind == "evaluating":
        return Work("evaluate", parameters, n_bytes, tokens)
    return Work("train", parameters, n_bytes, tokens, adapters_only=kind == "LoRA")


def test_the_gpu_is_taken_from_the_tokens_in_the_table(page: str) -> None:
    rows = _ROW.findall(page)
    assert len(rows) == 7
    for kind, millions, gigabytes, tokens in rows:
        sizes, about = (int(millions) * 10**6, int(float(gigabytes) * 10**9)), int(tokens.replace(",", ""))
        assert worth_a_gpu(work_of(kind, *sizes, round(1.02 * about))).is_worth, kind
        assert not worth_a_gpu(work_of(kind, *sizes, round(0.98 * about))).is_worth, kind


def test_messages_are_those_of_the_code(page: str, project_root: Path) -> None:
    probe = (project_root / "entrenar_core" / "backend" / "cuda_probe.py").read_text(encoding="utf-8")
    for message in (
        "computing on a GPU needs CuPy, which is not installed",
        "CuPy is installed without the libraries of CUDA ",
        "CuPy is installed, but there is no NVIDIA driver",
        "the NVIDIA driver is too old: it supports CUDA ",
        "there is an NVIDIA driver, but it shows no GPU",
        "is too old: bfloat16 needs compute capability 8.0",
        "builds of CuPy are installed, of which one overwrites the other",
    ):
        assert message in page and message in probe, message


def test_the_keys_it_names_are_keys(page: str, tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text(
        "model: {path: base.gguf}\n"
        "data: {train: t.parquet, batch_size: 1, seq_len: 64}\n"
        "lora: {}\n"
        "quantize: {bits: 4}\n"
        "training: {device: cuda, compute_dtype: bfloat16, deterministic: true, activation_checkpointing: true,"
        " grad_accum: 2}\n"
    )
    training = load_config(path).training.model_dump()
    for key in re.findall(r"`training\.(\w+)", page):
        assert key in training, key
