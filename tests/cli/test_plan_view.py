"""How the plan of a dry run is shown and what it is for scripts."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from entrenar_cli.documents import write_document
from entrenar_cli.plan_view import memory_sentence, plan_document, show_plan
from entrenar_core.stages.disk import DiskEstimate
from entrenar_core.stages.estimate import MAPPED, MemoryEstimate
from entrenar_core.stages.fit import Change, Verdict
from entrenar_core.stages.plan_types import (
    ColumnUse,
    DeviceMemoryPlan,
    RunPlan,
    SamplePreview,
    SourcePlan,
    StepPlan,
    TimePlan,
    TokenCounts,
)
from entrenar_core.stages.preview import Segment
from tests.cli.terminal import terminal

GIB = 1 << 30
COLUMNS = (
    ColumnUse("id", "number", "whole numbers in order", None),
    ColumnUse("question", "text", "45 words on average", "prompt"),
    ColumnUse("answer", "text", "52 words on average", "completion"),
)
PLAN = RunPlan(
    model="base.gguf",
    architecture="llama",
    parameters=125_000_000,
    trainable_parameters=983_040,
    method="LoRA of rank 16 on q_proj, v_proj",
    train=(SourcePlan("train.parquet", 7000, 2_100_000, 1.0, "prompt_completion", "by the names", COLUMNS),),
    val=(),
    train_tokens=TokenCounts(6990, 1_200_000, 600_000, 12, 345, {"the answer is empty": 10}),
    val_tokens=None,
    steps=StepPlan(500, 2.0, 2, 8, 512, evaluations=3),
    memory=MemoryEstimate((("weights", 2 * GIB), (MAPPED, GIB), ("activations", 5 * GIB))),
    memory_verdict=Verdict(7 * GIB, 16 * GIB),
    disk=DiskEstimate((("model.gguf", GIB),), 50 * GIB),
    time=TimePlan(2.5, 1250.0, 1600.0, "measured on one batch"),
    output_dir="runs/x",
    previews=(SamplePreview("train.parquet, row 1", 3, 1, (Segment("How many?", False), Segment(" 42", True))),),
    warnings=("the tokenizer adds no BOS",),
)
TOO_LARGE = replace(PLAN, memory_verdict=Verdict(7 * GIB, 4 * GIB, Change("data.batch_size: 2", 3 * GIB)))


def shown(plan: RunPlan) -> str:
    out = io.StringIO()
    show_plan(plan, out)
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "LoRA of rank 16",
        "983k of 125M parameters (0.79 %)",
        "500 (2 epochs)",
        "8 rows of up to 512 tokens, 2 batches to a step",
        "about 20 min 50 s (1.6k tokens/s, 2.5 s a step; measured on one batch)",
        "data: train.parquet: 7,000 rows, 2.0 MiB; task: prompt_completion (by the names)",
        "question  text    prompt",
        "id        number  ignored",
        "1,200,000  600,000  50.0 %",
        "10 the answer is empty",
        "needs 7.0 GiB of 16.0 GiB that are free",
        "peak               8.0 GiB",
        "needs 1.0 GiB of 50.0 GiB that are free",
        "the tokenizer adds no BOS",
        "How many?⟦ 42⟧",
    ],
)
def test_a_plan_says(text: str) -> None:
    assert text in shown(PLAN)


def test_columns_that_are_used_come_first() -> None:
    lines = shown(PLAN).splitlines()
    places = [
        next(place for place, line in enumerate(lines) if line.startswith(f"  {name} ")) for name in ("answer", "id")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        (Verdict(7 * GIB, 16 * GIB), "needs 7.0 GiB of 16.0 GiB that are free"),
        (Verdict(7 * GIB, None), "needs 7.0 GiB; how much is free is not known"),
        (
            TOO_LARGE.memory_verdict,
            "needs 7.0 GiB, but only 4.0 GiB are free: it will not fit; data.batch_size: 2 would need 3.0 GiB",
        ),
        (
            Verdict(7 * GIB, GIB),
            "needs 7.0 GiB, but only 1.0 GiB are free: it will not fit; use a smaller model, or LoRA",
        ),
    ],
    ids=["fits", "unknown", "a change helps", "nothing helps"],
)
def test_the_verdict_on_memory_is_a_sentence(verdict: Verdict, sentence: str) -> None:
    assert memory_sentence(verdict) == sentence


def test_the_memory_of_a_gpu_has_a_table_of_its_own() -> None:
    memory = MemoryEstimate((("CUDA", GIB), ("weights", 3 * GIB)))
    plan = replace(PLAN, device_memory=DeviceMemoryPlan(memory, Verdict(4 * GIB, 80 * GIB)))
    assert "GPU memory: needs 4.0 GiB of 80.0 GiB that are free" in shown(plan)
    document = plan_document(plan)["device_memory"]
    assert document["verdict"]["fits"] and document["memory"]["total"] == 4 * GIB  # type: ignore[index]
    assert document["memory"]["parts"][1] == {"name": "weights", "n_bytes": 3 * GIB}  # type: ignore[index]


def test_a_full_disk_is_said() -> None:
    assert "it will not fit" in shown(replace(PLAN, disk=DiskEstimate((("model.gguf", GIB),), 5)))


def test_estimated_counts_are_called_so() -> None:
    counts = replace(PLAN.train_tokens, is_estimate=True)
    assert "estimated from a part of the data" in shown(replace(PLAN, train_tokens=counts))


@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_keeps_within_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = terminal(monkeypatch, width)
    show_plan(TOO_LARGE, screen)
    assert max(cell_len(line) for line in screen.lines()) <= width
    assert any("How many? 42" in line for line in screen.lines())


def test_scripts_get_one_object_with_sums_and_verdicts() -> None:
    out = io.StringIO()
    write_document(out, plan_document(TOO_LARGE))
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found["memory"]["total"] == 8 * GIB
    assert found["memory"]["needed"] == 7 * GIB
    assert found["memory"]["parts"][0] == {"name": "weights", "n_bytes": 2 * GIB}
    assert found["memory_verdict"]["fits"] is False
    assert found["memory_verdict"]["change"] == {"keys": "data.batch_size: 2", "needed": 3 * GIB}
    assert found["disk"] == {
        "parts": [{"name": "model.gguf", "n_bytes": GIB}],
        "free": 50 * GIB,
        "total": GIB,
        "fits": True,
    }
    assert found["previews"][0]["segments"][1] == {"text": " 42", "is_trained": True, "is_special": False}
    assert list(found) == list(PLAN.__dataclass_fields__)


def test_paths_and_numbers_that_json_does_not_know_are_converted() -> None:
    out = io.StringIO()
    write_document(out, {"path": Path("a/b"), "nan": float("nan"), "set": (1, 2)})
    assert json.loads(out.getvalue()) == {"path": "a/b", "nan": None, "set": [1, 2]}
