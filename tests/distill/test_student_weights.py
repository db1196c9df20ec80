"""What is left out of a teacher that is too wide: by construction, and against the teacher with that part silenced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.config.student import Student
from entrenar_core.distill.student import StudentPlan, plan_student
from entrenar_core.distill.student_weights import student_weights
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.quant.calibrate import calibrate
from entrenar_core.quant.observers import MeanSquare
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively_weights, pack, tiny_spec, tokens_of, write_model

Weights = dict[str, np.ndarray]
TOKENS = tokens_of(2, 12)


def spec_of(architecture: str, **changes: Any) -> DecoderSpec:
    """Two blocks, eight heads on four key/value heads."""
    return tiny_spec(architecture, **{"num_heads": 8, "num_kv_heads": 4, **changes})


def activity_of(model: LanguageModel) -> dict[str, np.ndarray]:
    batch = pack([[row] for row in tokens_of(3, 12, seed=1)], 11)
    return calibrate(model, [batch], MeanSquare, with_output=True).importance()


def student_of(path: Path, weights: Weights, spec: DecoderSpec, **sizes: Any) -> tuple[StudentPlan, Weights]:
    """Made from a file with these weights, by what a model with them does."""
    plan = plan_student(Student(**sizes), GGUFFile.open(write_model(path, spec, weights)))
    assert plan.needs_activity
    return plan, dict(student_weights(plan, 0, activity_of(build(spec, weights))))


def assert_computes_like(student: Weights, spec: DecoderSpec, teacher: Weights, whole: DecoderSpec) -> None:
    wanted = build(whole, teacher).logits(TOKENS)
    np.testing.assert_allclose(build(spec, student).logits(TOKENS), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_neurons_that_add_nothing_go_without_a_trace(architecture: str, tmp_path: Path) -> None:
    spec, weights = spec_of(architecture), lively_weights(spec_of(architecture))
    silent = {0: [1, 5, 23], 1: [0, 2, 7]}
    for block, neurons in silent.items():
        weights[f"blk.{block}.ffn_down.weight"][:, neurons] = 0
    plan, student = student_of(tmp_path / "t.gguf", weights, spec, ffn=21)
    assert_computes_like(student, plan.spec, weights, spec)


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize(
    ("silent", "sizes"),
    [
        ({0: [0, 3, 4, 7], 1: [1, 2, 5, 6]}, {"heads": 4}),
        ({0: [2, 3, 4, 5], 1: [0, 1, 6, 7]}, {"kv_heads": 2}),
        ({0: [1, 2, 3, 4, 5, 6], 1: [0, 1, 2, 4, 6, 7]}, {"heads": 2, "kv_heads": 2}),
    ],
    ids=["heads of each group", "whole groups", "both"],
)
def test_heads_that_add_nothing_go_without_a_trace(
    architecture: str, silent: dict[int, list[int]], sizes: dict[str, int], tmp_path: Path
) -> None:
    spec, weights = spec_of(architecture), lively_weights(spec_of(architecture))
    for block, heads in silent.items():
        columns = weights[f"blk.{block}.attn_output.weight"].reshape(16, 8, 8)
        columns[:, heads] = 0
    plan, student = student_of(tmp_path / "t.gguf", weights, spec, **sizes)
    assert_computes_like(student, plan.spec, weights, spec)


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_channels_that_carry_nothing_go_without_a_trace(architecture: str, tied: bool, tmp_path: Path) -> None:
    spec = spec_of(architecture, tie_embeddings=tied, norm_eps=1e-12)
    weights = lively_weights(spec)
    silent = [0, 3, 9, 10, 15]
    weights["token_embd.weight"][:, silent] = 0
    for block in (0, 1):
        weights[f"blk.{block}.attn_output.weight"][silent] = 0
        weights[f"blk.{block}.ffn_down.weight"][silent] = 0
    plan, student = student_of(tmp_path / "t.gguf", weights, spec, hidden=11)
    assert plan.spec.hidden_size == 11
    assert_computes_like(student, plan.spec, weights, spec)


def test_all_of_it_at_once_has_the_shape_that_was_asked_for(tmp_path: Path) -> None:
    spec = spec_of("qwen2")
    sizes = {"layers": (1,), "hidden": 9, "heads": 2, "kv_heads": 1, "ffn": 7}
    plan, student = student_of(tmp_path / "t.gguf", lively_weights(spec), spec, **sizes)
    assert {name: values.shape for name, values in student.items()} == plan.shapes()
    assert np.isfinite(build(plan.spec, student).logits(TOKENS)).all()


def test_what_adds_most_is_kept_in_the_order_of_the_teacher(tmp_path: Path) -> None:
    spec, weights = spec_of("llama"), lively_weights(spec_of("llama"))
    _, student = student_of(tmp_path / "t.gguf", weights, spec, ffn=5)
    activity = activity_of(build(spec, weights))
    for block in (0, 1):
        down = weights[f"blk.{block}.ffn_down.weight"].astype(np.float64)
        added = [activity[f"blk.{block}.ffn_down.weight"][n] * float(down[:, n] @ down[:, n]) for n in range(24)]
        best = sorted(sorted(range(24), key=lambda n: -added[n])[:5])
        np.testing.assert_array_equal(
            student[f"blk.{block}.ffn_up.weight"], weights[f"blk.{block}.ffn_up.weight"][best]
        )
