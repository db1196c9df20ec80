"""The events of one short run, as a stage would send them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from entrenar_core.events import Eval, Event, Finished, Notice, Predicted, Progress, RunStarted, Saved, Step

STARTED = RunStarted("base.gguf", "llama", 7_080_000, 262_144, 7000, 473, 4, 0, 2, "cpu", Path("runs/quick"))
EVAL = Eval(step=4, loss=1.5, supervised_tokens=44_000, seconds=2.34, is_best=True)
CLASS_EVAL = replace(EVAL, metrics={"accuracy": 0.953125, "macro_f1": 0.94})
NUMBER_EVAL = replace(EVAL, metrics={"mse": 1.5, "mae": 0.81, "r2": None})
PREDICTED = Predicted(Path("out.parquet"), 1200, 3, 1, 1197, {"accuracy": 0.953125, "macro_f1": 0.94}, 4.0)
FINISHED = Finished(steps=4, reason="all steps are done", train_loss=1.6, val_loss=1.5, seconds=126.3)


def step(number: int, total: int = 4) -> Step:
    return Step(
        step=number,
        total_steps=total,
        epoch=number / 2,
        loss=2.0 / number,
        lr=1e-4,
        grad_norm=0.8125,
        tokens=4096,
        supervised_tokens=2048,
        seconds=0.5,
        peak_memory_bytes=600 << 20,
    )


def events_of_a_run() -> list[Event]:
    return [
        Progress("tokenizing", 0, 7000),
        Progress("tokenizing", 3500, 7000),
        Progress("tokenizing", 7000, 7000),
        STARTED,
        Notice("warning", "12 examples were truncated"),
        *[step(number) for number in range(1, 5)],
        EVAL,
        Saved("checkpoint", Path("runs/quick/step-4"), 6 << 20),
        Saved("model", Path("runs/quick/model.gguf"), 14 << 20),
        FINISHED,
    ]
