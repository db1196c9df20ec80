"""``metrics.jsonl`` grows line by line and is cut where a run is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from entrenar_core.errors import OutputError
from entrenar_core.events import Eval, QuantizationStarted, Step
from entrenar_core.train.memory import peak_memory_bytes
from entrenar_core.train.metrics import MetricsFile
from entrenar_core.train.state import TrainState


def step(number: int) -> Step:
    return Step(number, 9, 0.5, 1 / 3, 1e-4, 2.0, 30, 20, seconds=0.1, peak_memory_bytes=1000)


def evaluation(number: int) -> Eval:
    return Eval(number, 0.25, 20, seconds=0.1, is_best=True)


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    file.begin(TrainState())
    return file


def numbers(file: MetricsFile) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    return [(line["event"], line["step"]) for line in lines]


def test_each_event_is_one_json_object_with_all_its_values(metrics: MetricsFile) -> None:
    metrics.append(step(1))
    metrics.append(evaluation(1))
    first, second = (json.loads(line) for line in metrics.path.read_text().splitlines())
    assert first == {
        **{"event": "step", "step": 1, "total_steps": 9, "epoch": 0.5, "loss": 1 / 3, "lr": 1e-4, "grad_norm": 2.0},
        **{"tokens": 30, "supervised_tokens": 20, "seconds": 0.1, "peak_memory_bytes": 1000, "parts": {}},
        "peak_device_bytes": None,
    }
    assert second == {
        **{"event": "eval", "step": 1, "loss": 0.25, "supervised_tokens": 20, "seconds": 0.1, "is_best": True},
        "metrics": {},
    }


def test_metrics_of_a_head_are_written_with_the_evaluation(metrics: MetricsFile) -> None:
    metrics.append(replace(evaluation(1), metrics={"mae": 0.5, "r2": None}))
    assert json.loads(metrics.path.read_text())["metrics"] == {"mae": 0.5, "r2": None}


def test_a_line_can_be_read_as_soon_as_it_is_written(metrics: MetricsFile) -> None:
    metrics.append(step(1))
    assert numbers(metrics) == [("step", 1)]
    metrics.append(step(2))
    assert numbers(metrics) == [("step", 1), ("step", 2)]


def test_resuming_drops_what_came_after_the_checkpoint_and_torn_lines(metrics: MetricsFile) -> None:
    for number in (1, 2, 3):
        metrics.append(step(number))
        metrics.append(evaluation(number))
    with metrics.path.open("a") as file:
        file.write('{"event": "step", "st')
    metrics.begin(TrainState(step=2, evaluated_step=2))
    assert numbers(metrics) == [("step", 1), ("eval", 1), ("step", 2), ("eval", 2)]


def test_an_evaluation_that_the_checkpoint_has_not_seen_is_dropped(metrics: MetricsFile) -> None:
    for number in (1, 2):
        metrics.append(step(number))
        metrics.append(evaluation(number))
    metrics.begin(TrainState(step=2, evaluated_step=1))
    assert numbers(metrics) == [("step", 1), ("eval", 1), ("step", 2)]


def test_a_new_run_begins_with_an_empty_file(metrics: MetricsFile) -> None:
    metrics.append(step(1))
    metrics.begin(TrainState())
    assert metrics.path.read_text() == ""


def test_resuming_keeps_lines_byte_for_byte(metrics: MetricsFile) -> None:
    metrics.append(step(1))
    before = metrics.path.read_bytes()
    metrics.begin(TrainState(step=1))
    assert metrics.path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"metrics\.jsonl"):
        MetricsFile(tmp_path / "run" / "metrics.jsonl").begin(TrainState())


def test_the_peak_of_memory_is_in_bytes() -> None:
    assert 10e6 < peak_memory_bytes() < 1e12


@pytest.mark.parametrize(("resumed_at", "kept"), [(0, False), (1, False), (2, True), (3, True)])
def test_the_start_of_quantization_is_dropped_where_it_has_not_begun(
    metrics: MetricsFile, resumed_at: int, kept: bool
) -> None:
    for number in (1, 2):
        metrics.append(step(number))
    metrics.append(QuantizationStarted(2, {"Q4_0": 14}))
    metrics.append(step(3))
    metrics.begin(TrainState(step=resumed_at))
    assert (("quantization_started", 2) in numbers(metrics)) is kept


def test_quantization_from_the_beginning_is_kept(metrics: MetricsFile) -> None:
    metrics.append(QuantizationStarted(0, {"Q4_0": 14}))
    metrics.append(step(1))
    metrics.begin(TrainState(step=1))
    assert numbers(metrics) == [("quantization_started", 0), ("step", 1)]
