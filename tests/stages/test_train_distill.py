"""Whole runs with teachers: every kind of student learns, runs are repeatable, and a resumed one ends the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.distill.cache import open_or_build
from entrenar_core.errors import ConfigError, EntrenarError
from entrenar_core.events import Notice, RunStarted, Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.dry_run import plan_run
from entrenar_core.stages.train import RunResult, run_training
from entrenar_core.train.interrupt import Interrupted, StopSignal
from tests.stages.test_distill import renamed
from tests.stages.tiny_base import base_spec, config, train, write_base, write_data
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf", type_name="F16")
    write_base(tmp_path / "big.gguf", base_spec(hidden_size=64, num_layers=4), type_name="Q8_0")
    return tmp_path


def distil(folder: Path, *, distill: dict[str, Any] | None = None, **sections: Any) -> tuple[RunResult, Listener]:
    section = {"teacher": str(folder / "big.gguf"), **(distill or {})}
    return train(folder, distill={key: value for key, value in section.items() if value is not None}, **sections)


def steps(listener: Listener) -> list[Step]:
    return [event for event in listener.events if isinstance(event, Step)]


def tensors(path: Path | None) -> dict[str, bytes]:
    assert path is not None
    with GGUFFile.open(path) as file:
        return {name: file.raw(name).tobytes() for name in file.tensors}


def test_a_run_says_what_it_learns_and_from_whom(folder: Path) -> None:
    _, listener = distil(folder)
    (started,) = (event for event in listener.events if isinstance(event, RunStarted))
    assert started.objective.startswith("0.5 × forward KL at temperature 2 from big.gguf (Q8_0)")
    for event in steps(listener):
        expected = 0.5 * event.parts["divergence"] + 0.5 * event.parts["cross_entropy"]
        assert event.loss == pytest.approx(expected, rel=1e-5)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["parts"].keys() == {"divergence", "cross_entropy"}


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, id="lora"),
        pytest.param({"lora": None, "optimizer": {"lr": 0.003}}, id="full"),
        pytest.param({"lora": None, "quantize": {"type": "q8_0", "stage": "qat"}}, id="qat"),
        pytest.param({"quantize": {"type": "q8_0"}}, id="qlora"),
    ],
)
def test_every_kind_of_student_comes_nearer_to_its_teacher(folder: Path, sections: dict[str, Any]) -> None:
    training = {"max_steps": 12}
    _, listener = distil(folder, distill={"alpha": 1.0}, training=training, **sections)
    losses = [event.loss for event in steps(listener)]
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])


def test_hidden_states_and_attention_are_matched_through_learned_matrices(folder: Path) -> None:
    hidden = {"weight": 0.5, "attention": 1.0, "progressive": 2}
    result, listener = distil(folder, distill={"layers": "even", "hidden": hidden})
    for event in steps(listener):
        parts = event.parts
        assert event.loss == pytest.approx(0.5 * parts["divergence"] + 0.5 * parts["cross_entropy"] + parts["layers"])
    assert not any("distill" in name for name in tensors(result.model)), "the matrices are no part of the model"


def test_the_student_writes_some_of_its_texts(folder: Path) -> None:
    policy = {"fraction": 0.5, "max_tokens": 4}
    _, listener = distil(folder, distill={"on_policy": policy}, training={"max_steps": 6})
    own = ["cross_entropy" not in event.parts for event in steps(listener)]
    assert 0 < sum(own) < 6


@pytest.mark.parametrize(
    "distill",
    [
        pytest.param({"on_policy": {"fraction": 0.5, "max_tokens": 4}}, id="on-policy"),
        pytest.param({"layers": "even", "hidden": {"progressive": 2}}, id="layers"),
    ],
)
def test_a_resumed_run_ends_with_the_same_bytes(folder: Path, distill: dict[str, Any]) -> None:
    whole, _ = distil(folder, distill=distill, training={"max_steps": 4, "output_dir": str(folder / "whole")})
    settings = {"max_steps": 4, "save_every": 2, "output_dir": str(folder / "parts")}
    distil(folder, distill=distill, training={**settings, "max_steps": 2})
    section = {"teacher": str(folder / "big.gguf"), **distill}
    again = run_training(config(folder, distill=section, training=settings), resume_from="auto", reporter=Listener())
    assert tensors(again.model) == tensors(whole.model)


def cached(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"cache": {"path": str(folder / "cache"), "top_k": 10_000, **changes}}


def test_a_cache_of_all_tokens_teaches_what_the_teacher_does(folder: Path) -> None:
    _, running = distil(folder)
    _, reading = distil(folder, distill=cached(folder), training={"output_dir": str(folder / "other")})
    assert [event.loss for event in steps(reading)] == pytest.approx([event.loss for event in steps(running)], rel=1e-6)


def test_a_complete_cache_needs_no_teacher_to_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the likeliest tokens only; what is learned differs, and the run is the same again."""
    few = cached(folder, top_k=8)
    _, first = distil(folder, distill=few)
    said = [event.message for event in first.events if isinstance(event, Notice) and event.level == "warning"]
    assert len(said) == 1 and "of the teachers' probability; a larger distill.cache.top_k" in said[0]

    def no_model(*_: object) -> None:
        raise AssertionError("a teacher is loaded")

    monkeypatch.setattr("entrenar_core.stages.distill.load_mapped", no_model)
    _, again = distil(folder, distill=few, training={"output_dir": str(folder / "other")})
    assert [event.loss for event in steps(again)] == [event.loss for event in steps(first)]
    with pytest.raises(EntrenarError, match="temperature"):
        distil(folder, distill={**few, "temperature": 3.0}, training={"output_dir": str(folder / "third")})


def test_a_stop_while_the_cache_is_made_leaves_what_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrenar_core.stages.distill.StopSignal", Stopped)
    with pytest.raises(Interrupted, match="cache of the teachers") as caught:
        distil(folder, distill=cached(folder))
    assert caught.value.exit_code == 143 and not (folder / "run").exists()
    monkeypatch.undo()
    assert distil(folder, distill=cached(folder))[0].steps == 3


def test_a_stop_while_the_last_of_the_cache_is_made_is_heeded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopSignal()

    def whole(*arguments: Any, **options: Any) -> Any:
        found = open_or_build(*arguments, **options)
        stop.request()
        return found

    monkeypatch.setattr("entrenar_core.stages.distill.StopSignal", lambda: stop)
    monkeypatch.setattr("entrenar_core.stages.distill.open_or_build", whole)
    with pytest.raises(Interrupted, match="cache of the teachers"):
        distil(folder, distill=cached(folder))
    assert not (folder / "run").exists()


@pytest.mark.parametrize("go_on", [run_training, plan_run])
def test_what_is_not_the_same_run_is_refused_before_a_cache_is_made(folder: Path, go_on: Any) -> None:
    settings = {"max_steps": 2, "save_every": 1}
    distil(folder, training=settings)
    section = {"teacher": str(folder / "big.gguf"), **cached(folder)}
    another = config(folder, distill=section, training=settings)
    with pytest.raises(ConfigError, match=r"another run: distill\.cache: none -> "):
        go_on(another, resume_from="auto", reporter=Listener())
    assert not (folder / "cache").exists()


class Stopped(StopSignal):
    """Asked to stop from the beginning."""

    def __enter__(self) -> StopSignal:
        self.request(15)
        return self


def test_the_share_of_the_data_that_a_teacher_knows_is_said(folder: Path) -> None:
    write_base(folder / "big.gguf", extra=renamed(4))
    _, listener = distil(folder)
    said = [event.message for event in listener.events if isinstance(event, Notice)]
    assert any("% of the tokens of the training data" in message for message in said)


def test_another_teacher_is_another_run(folder: Path) -> None:
    settings = {"max_steps": 2, "save_every": 1}
    distil(folder, training=settings)
    write_base(folder / "big.gguf", base_spec(num_layers=4), type_name="Q8_0")
    section = {"teacher": str(folder / "big.gguf")}
    with pytest.raises(ConfigError, match=r"distill\.teachers\.0 \(content\)"):
        run_training(
            config(folder, distill=section, training={**settings, "max_steps": 3}),
            resume_from="auto",
            reporter=Listener(),
        )


def test_the_teacher_is_never_written_over(folder: Path) -> None:
    (folder / "run").mkdir()
    teacher = write_base(folder / "run" / "model.gguf")
    with pytest.raises(EntrenarError, match=r"model\.gguf"):
        distil(folder, distill={"teacher": str(teacher)})
    assert teacher.exists()


def test_data_for_a_head_are_refused(folder: Path) -> None:
    table = pa.table({"text": ["a b", "c d"] * 6, "label": ["x", "y"] * 6})
    pq.write_table(table, folder / "train.parquet")
    with pytest.raises(ConfigError, match="teachers say which token comes next"):
        distil(folder)
