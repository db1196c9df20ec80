"""The reporter for logs and pipes: one plain line for each thing worth knowing, no colours, no cursor movements."""

from __future__ import annotations

from typing import TextIO

from entrenar_cli.quantities import exact_count
from entrenar_cli.results import result_facts
from entrenar_cli.summary import (
    Fact,
    RunSummary,
    before_the_run,
    compiling_line,
    eval_line,
    quantization_line,
    saved_line,
    step_line,
)
from entrenar_core.events import (
    Compiling,
    Eval,
    Event,
    Finished,
    Generated,
    Merged,
    Notice,
    Predicted,
    Progress,
    QuantizationStarted,
    Quantized,
    RunStarted,
    Saved,
    Step,
)


class PlainReporter:
    """Writes what happens to `log` and generated text to `out`.

    Args:
        log: the stream for status lines.
        out: the stream for generated text.
        log_every: steps between step lines; the first and the last one are always written.
    """

    def __init__(self, log: TextIO, out: TextIO, log_every: int = 1) -> None:
        self.log = log
        self.out = out
        self.log_every = log_every
        self.summary = RunSummary()
        self.open_task: str | None = None
        self.first_step_is_due = True
        self.line_is_open = False

    def emit(self, event: Event) -> None:
        self.summary.note(event)
        match event:
            case Step():
                self._step(event)
            case Progress():
                self._progress(event)
            case Generated():
                self.out.write(event.text)
                self.out.flush()
                self.line_is_open = not event.text.endswith("\n")
            case RunStarted():
                self._facts(before_the_run(event))
            case Compiling() | Eval() | QuantizationStarted() | Saved() | Notice():
                self._line(_line_of(event))
            case Predicted() | Quantized() | Merged():
                self._facts(result_facts(event))
            case Finished():
                self._facts(self.summary.facts(event))

    def close(self) -> None:
        """End an open line of generated text."""
        if self.line_is_open:
            self.out.write("\n")
            self.out.flush()
            self.line_is_open = False

    def _step(self, event: Step) -> None:
        if self.first_step_is_due or event.step % self.log_every == 0 or event.step == event.total_steps:
            self._line(step_line(event))
        self.first_step_is_due = False

    def _progress(self, event: Progress) -> None:
        if event.done >= event.total:
            self._line(f"{event.task}: {exact_count(event.total)} done")
            self.open_task = None
        elif self.open_task != event.task:
            self._line(f"{event.task}: {exact_count(event.total)} to do")
            self.open_task = event.task

    def _facts(self, facts: list[Fact]) -> None:
        for name, text in facts:
            self._line(f"{name}: {text}")

    def _line(self, text: str) -> None:
        print(text, file=self.log, flush=True)


def _line_of(event: Compiling | Eval | QuantizationStarted | Saved | Notice) -> str:
    match event:
        case Compiling():
            return compiling_line(event)
        case Eval():
            return eval_line(event)
        case QuantizationStarted():
            return quantization_line(event)
        case Saved():
            return saved_line(event)
        case Notice():
            return event.message if event.level == "info" else f"{event.level}: {event.message}"
