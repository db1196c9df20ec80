"""Students shaped from a teacher, as a run writes them, in llama.cpp: it loads them, and computes what we do."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: oracle)")

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import load_model
from entrenar_core.stages.train import run_training
from tests.model.tiny import tokens_of
from tests.oracle.llama_cpp_logits import assert_same_model, llama_cpp_logits
from tests.stages.tiny_base import base_spec, vocab_size, write_base, write_config, write_data

NARROW = {"layers": [0, 2], "hidden": 24, "heads": 2, "kv_heads": 1, "ffn": 40}
SQUARE = {**NARROW, "hidden": 16}


@pytest.mark.parametrize(
    ("architecture", "student"), [("llama", {"layers": 2}), ("llama", NARROW), ("qwen2", SQUARE), ("qwen3", NARROW)]
)
def test_a_student_is_the_same_model_in_llama_cpp(architecture: str, student: dict[str, Any], tmp_path: Path) -> None:
    factors = {ROPE_FREQS: np.array([1, 1.5, 2, 4], np.float32)} if architecture == "llama" else {}
    base = write_base(
        tmp_path / "base.gguf", base_spec(architecture, num_layers=3), replaced=factors, without=["test.nested"]
    )
    write_data(tmp_path)
    distill = {"teacher": str(base), "alpha": 0, "student": student}
    config = load_config(write_config(tmp_path, model=None, lora=None, distill=distill))
    made = run_training(config, reporter=SilentReporter()).model
    assert made is not None
    tokens = tokens_of(60, vocab_size=vocab_size())
    with closing(CpuBackend(2)) as backend, GGUFFile.open(made) as file:
        ours = load_model(file, backend).logits(tokens[None])[0]
    assert_same_model(llama_cpp_logits(made, tokens), ours)
