"""What a script reads with --json."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

from entrenar_cli.json_lines import JsonReporter
from entrenar_core.events import Event, Generated, Saved
from tests.cli.run_events import NUMBER_EVAL, STARTED, events_of_a_run, step


def lines(*events: Event) -> list[dict[str, object]]:
    out = io.StringIO()
    reporter = JsonReporter(out)
    for event in events:
        reporter.emit(event)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_event_is_one_object_that_names_its_kind() -> None:
    kinds = [line["event"] for line in lines(*events_of_a_run())]
    assert kinds == [
        *["progress"] * 3, "run_started", "notice", *["step"] * 4, "eval", "saved", "saved", "finished",
    ]  # fmt: skip


def test_the_fields_are_those_of_the_event() -> None:
    assert lines(Saved("model", Path("a/b.gguf"), 5)) == [
        {"event": "saved", "kind": "model", "path": "a/b.gguf", "n_bytes": 5}
    ]
    assert lines(STARTED)[0]["output_dir"] == "runs/quick"


def test_metrics_are_an_object_of_their_own() -> None:
    assert lines(NUMBER_EVAL)[0]["metrics"] == {"mse": 1.5, "mae": 0.81, "r2": None}


def test_numbers_that_json_does_not_know_become_null() -> None:
    found = lines(replace(step(1), loss=math.nan, grad_norm=math.inf))[0]
    assert found["loss"] is None
    assert found["grad_norm"] is None


def test_line_breaks_in_text_do_not_break_the_line() -> None:
    assert lines(Generated("a\nb")) == [{"event": "generated", "text": "a\nb"}]
