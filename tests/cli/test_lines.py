"""What a log file gets: plain lines."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from entrenar_cli.lines import PlainReporter
from entrenar_core.events import Compiling, Event, Generated, QuantizationStarted, Saved
from tests.cli.run_events import (
    CLASS_EVAL,
    EVAL,
    FINISHED,
    NUMBER_EVAL,
    PREDICTED,
    STARTED,
    events_of_a_run,
    step,
)


def log_of(*events: Event, log_every: int = 1) -> tuple[list[str], str]:
    log, out = io.StringIO(), io.StringIO()
    reporter = PlainReporter(log, out, log_every)
    for event in events:
        reporter.emit(event)
    reporter.close()
    return log.getvalue().splitlines(), out.getvalue()


def test_compiling_is_said_before_it_takes_its_time() -> None:
    assert log_of(Compiling("F16, Q4_K")) == (["compiling the kernels for F16, Q4_K (once on this machine)"], "")


def test_a_run_from_start_to_end() -> None:
    log, out = log_of(*events_of_a_run(), log_every=10)
    assert out == ""
    assert log == [
        "tokenizing: 7,000 to do",
        "tokenizing: 7,000 done",
        "model: base.gguf (llama), 7.08M parameters, 262k trained (3.7%)",
        "data: 7,000 examples, 473 for validation",
        "run: 4 steps, cpu, 2 threads, in runs/quick",
        "warning: 12 examples were truncated",
        "step 1/4  epoch 0.50  loss 2.0000  lr 1.00e-04  grad norm 0.812  8.19k tok/s  600.0 MiB",
        "step 4/4  epoch 2.00  loss 0.5000  lr 1.00e-04  grad norm 0.812  8.19k tok/s  600.0 MiB",
        "validation at step 4  loss 1.5000  perplexity 4.482  in 2.3 s  best so far",
        "saved checkpoint runs/quick/step-4 (6.0 MiB)",
        "saved model runs/quick/model.gguf (14.0 MiB)",
        "run: 4 steps in 2 min 06 s: all steps are done",
        "training loss: 1.6000",
        "validation loss: 1.5000 (perplexity 4.482)",
        "speed: 8.19k tokens/s, 4.1k of them supervised",
        "peak memory: 600.0 MiB",
        "model: runs/quick/model.gguf (14.0 MiB)",
    ]


def test_steps_are_thinned_out_but_the_first_and_the_last_are_kept() -> None:
    log, _ = log_of(*[step(number, total=12) for number in range(3, 13)], log_every=5)
    assert [line[5:10] for line in log] == [" 3/12", " 5/12", "10/12", "12/12"]


def test_generated_text_is_all_there_is_on_stdout_and_ends_its_line() -> None:
    log, out = log_of(Generated("Once "), Generated("upon"), EVAL)
    assert out == "Once upon\n"
    assert len(log) == 1


def test_a_head_is_shown_by_its_metrics_and_not_by_a_perplexity() -> None:
    log, _ = log_of(CLASS_EVAL, FINISHED)
    assert log[0] == "validation at step 4  loss 1.5000  accuracy 0.9531  macro-F1 0.94  in 2.3 s  best so far"
    assert "validation loss: 1.5000 (accuracy 0.9531, macro-F1 0.94)" in log


def test_a_metric_that_the_data_do_not_define_is_said() -> None:
    assert "MSE 1.5  MAE 0.81  R² undefined" in log_of(NUMBER_EVAL)[0][0]


def test_the_best_evaluation_is_named_with_its_metrics_where_it_is_not_the_last() -> None:
    log, _ = log_of(CLASS_EVAL, replace(CLASS_EVAL, step=8, is_best=False), replace(FINISHED, val_loss=1.7))
    best = "best validation loss: 1.5000, accuracy 0.9531, macro-F1 0.94 at step 4"
    assert f"{best}; the files hold the weights of the last step (training.early_stopping keeps the best)" in log
    returned = replace(FINISHED, val_loss=1.7, result_step=4)
    assert f"{best}; the files hold its weights" in log_of(CLASS_EVAL, returned)[0]


def test_a_run_that_ends_where_it_goes_on_has_no_evaluation_to_speak_of() -> None:
    assert "validation loss: 1.5000" in log_of(STARTED, FINISHED)[0]


def test_the_head_is_among_the_results() -> None:
    log, _ = log_of(Saved("head", Path("runs/quick/head.gguf"), 2048), FINISHED)
    assert log[-1] == "head: runs/quick/head.gguf (2.0 KiB)"


def test_predictions_are_summed_up() -> None:
    assert log_of(PREDICTED)[0] == [
        "predictions: out.parquet (1,200 rows in 4.0 s)",
        "without text: 3 rows: no prediction",
        "truncated: 1 row longer than the model was trained for",
        "quality: accuracy 0.9531, macro-F1 0.94 on 1,197 rows",
    ]


def test_a_run_that_went_on_counts_its_own_steps() -> None:
    log, _ = log_of(replace(STARTED, first_step=3), step(4), FINISHED)
    assert "run: 4 steps, 3 of them done before, cpu, 2 threads, in runs/quick" in log
    assert "run: 1 step in 2 min 06 s: all steps are done" in log


@pytest.mark.parametrize(("step_done", "when"), [(0, "from the first step on"), (10, "from here on (step 10 is done)")])
def test_it_is_said_when_weights_begin_to_be_quantized(step_done: int, when: str) -> None:
    lines, _ = log_of(QuantizationStarted(step_done, {"Q4_0": 14, "Q6_K": 1}))
    assert lines == [f"weights are quantized {when}: matrices 14 in Q4_0, 1 in Q6_K"]


def test_the_parts_of_a_loss_and_whom_a_run_learns_from() -> None:
    parts = {"divergence": 1.25, "cross_entropy": 3.5}
    log, _ = log_of(replace(STARTED, objective="1 × forward KL from big.gguf (Q4_K)"), replace(step(2), parts=parts))
    assert log[1] == "objective: 1 × forward KL from big.gguf (Q4_K)"
    assert "  loss 1.0000 (divergence 1.2500, cross-entropy 3.5000)  lr" in log[4]
