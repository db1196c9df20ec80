"""What a terminal shows."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from entrenar_cli.console import RichReporter, open_reporter
from entrenar_cli.json_lines import JsonReporter
from entrenar_cli.lines import PlainReporter
from entrenar_core.events import Event, Generated, Merged, Merging, Progress, QuantizationStarted
from tests.cli.run_events import CLASS_EVAL, EVAL, FINISHED, PREDICTED, events_of_a_run, step


def shown(*events: Event, width: int = 120) -> tuple[str, str]:
    screen, out = io.StringIO(), io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=width, highlight=False)
    reporter = RichReporter(console, out)
    for event in events:
        reporter.emit(event)
    reporter.close()
    return screen.getvalue(), out.getvalue()


def test_a_run_shows_its_start_bar_lasting_lines_and_summary() -> None:
    screen, out = shown(*events_of_a_run())
    assert out == ""
    for text in (
        "model   base.gguf (llama), 7.08M parameters, 262k trained (3.7%)",
        "warning 12 examples were truncated",
        "4/4 loss 0.5000  lr 1.0e-04  8.19k tok/s  600.0 MiB took",
        "eval    step 4  loss 1.5000  perplexity 4.482  2.3 s  best so far",
        "saved   checkpoint runs/quick/step-4  6.0 MiB",
        "run             4 steps in 2 min 06 s: all steps are done",
        "peak memory     600.0 MiB",
        "model           runs/quick/model.gguf (14.0 MiB)",
    ):
        assert text in screen


def test_a_narrow_terminal_gets_a_shorter_bar_on_one_line() -> None:
    screen, _ = shown(step(1), step(4), width=60)
    bar = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", screen).replace("\r", "\n").splitlines()[-1]
    assert "4/4 loss 0.5000 8.19k tok/s" in bar
    assert len(bar) == 60


def test_square_brackets_in_names_are_not_markup() -> None:
    screen, _ = shown(Progress("reading [bold]x[/]", 1, 2), replace(FINISHED, reason="[red]odd[/]"))
    assert "[bold]x[/]" in screen
    assert "[red]odd[/]" in screen


def test_tasks_disappear_when_they_are_done() -> None:
    screen, _ = shown(Progress("loading", 0, 2), Progress("loading", 2, 2), step(4))
    assert "loading" not in screen.splitlines()[-1]


def test_generated_text_goes_out_as_it_comes() -> None:
    screen, out = shown(Progress("loading", 1, 2), Generated("Once "), Generated("upon"))
    assert out == "Once upon\n"
    assert "Once" not in screen


def test_an_evaluation_before_any_bar_is_a_line() -> None:
    screen, _ = shown(EVAL)
    assert screen == "eval    step 4  loss 1.5000  perplexity 4.482  2.3 s  best so far\n"


def test_a_head_is_shown_by_its_metrics() -> None:
    screen, _ = shown(CLASS_EVAL)
    assert screen == "eval    step 4  loss 1.5000  accuracy 0.9531  macro-F1 0.94  2.3 s  best so far\n"


def test_predictions_are_summed_up() -> None:
    screen, _ = shown(Progress("predicting", 1, 2), PREDICTED)
    assert "predictions  out.parquet (1,200 rows in 4.0 s)" in screen
    assert "quality      accuracy 0.9531, macro-F1 0.94 on 1,197 rows" in screen


def test_the_reporter_fits_where_the_output_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with open_reporter(json_lines=True) as reporter:
        assert isinstance(reporter, JsonReporter)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with open_reporter(log_every=3) as reporter:
        assert isinstance(reporter, PlainReporter)
        assert reporter.log_every == 3
    monkeypatch.setattr(sys, "stderr", Terminal())
    with open_reporter() as reporter:
        assert isinstance(reporter, RichReporter)
        reporter.emit(step(1))
        assert reporter.live is not None
    assert reporter.live is None


def test_the_start_of_quantization_is_a_line() -> None:
    text, _ = shown(QuantizationStarted(10, {"Q4_0": 14}))
    assert "note    weights are quantized from here on (step 10 is done): matrices 14 in Q4_0" in text


def test_a_merge_has_a_bar_and_a_summary() -> None:
    merged = Merged(Path("o.gguf"), "ties", 3, 6 << 20, 2 << 20, {"F16": 12}, 2.0, 300 << 20)
    screen, _ = shown(Merging(7, 90, 1200, 2010), merged)
    assert "1,200 of 2,010 tensors" in screen
    assert "merge   ties of 3 models" in screen
