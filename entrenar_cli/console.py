"""The reporter for a terminal: a live bar while the run goes on, lasting lines above it, a table at the end.

The bar is drawn when events arrive, a few times a second at most, and not by a thread: the kernels keep the cores.
Where the output is not a terminal, `open_reporter` gives plain lines instead; with ``--json``, JSON lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from entrenar_cli.json_lines import JsonReporter
from entrenar_cli.lines import PlainReporter
from entrenar_cli.merge_summary import merging_text
from entrenar_cli.quantities import duration, rate, short_count, size
from entrenar_cli.quantize_summary import MEBIBYTE, progress_text
from entrenar_cli.results import result_facts
from entrenar_cli.summary import (
    Fact,
    RunSummary,
    before_the_run,
    compiling_line,
    held_bytes,
    quality,
    quantization_line,
)
from entrenar_core.events import (
    Compiling,
    Eval,
    Event,
    Finished,
    Generated,
    Merged,
    Merging,
    Notice,
    Predicted,
    Progress,
    QuantizationStarted,
    Quantized,
    Quantizing,
    Reporter,
    RunStarted,
    Saved,
    Step,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as LiveProgress
    from rich.progress import TaskID

REDRAW_SECONDS = 0.2
WIDE = 100
"""Columns from which the bar shows the learning rate and the memory too, and says what the time is."""


@contextmanager
def open_reporter(*, json_lines: bool = False, log_every: int = 1) -> Iterator[Reporter]:
    """The reporter that fits where the output goes; what it has open is closed at the end, also after an error.

    Generated text and JSON go to stdout, everything else to stderr.
    """
    reporter: JsonReporter | PlainReporter | RichReporter
    if json_lines:
        reporter = JsonReporter(sys.stdout)
    elif sys.stderr.isatty():
        from rich.console import Console

        reporter = RichReporter(Console(stderr=True, highlight=False), sys.stdout)
    else:
        reporter = PlainReporter(sys.stderr, sys.stdout, log_every)
    try:
        yield reporter
    finally:
        reporter.close()


class RichReporter:
    """Draws on `console`; generated text goes to `out` as it comes."""

    def __init__(self, console: Console, out: TextIO) -> None:
        self.console = console
        self.out = out
        self.summary = RunSummary()
        self.live: LiveProgress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.total_steps = 0
        self.first_step = 0
        self.drawn_at = 0.0
        self.task_started = 0.0
        self.line_is_open = False

    def emit(self, event: Event) -> None:
        self.summary.note(event)
        match event:
            case Step():
                self._advance("training", event.step, event.total_steps, self._step_text(event))
            case Progress():
                self._progress(event)
            case Quantizing():
                self._quantizing(event)
            case Merging():
                self._advance("merging", event.done, max(1, event.total), merging_text(event))
            case Generated():
                self._generated(event)
            case RunStarted():
                self._stop()
                self.first_step = event.first_step
                self._facts(before_the_run(event))
            case Predicted() | Quantized() | Merged():
                self._stop()
                self._facts(result_facts(event))
            case Finished():
                self._stop()
                self.console.print()
                self._facts(self.summary.facts(event))
            case Compiling() | Eval() | QuantizationStarted() | Saved() | Notice():
                self._above_the_bar(event)

    def close(self) -> None:
        """Stop drawing and end an open line of generated text."""
        self._stop()
        if self.line_is_open:
            self.out.write("\n")
            self.out.flush()
            self.line_is_open = False

    def _step_text(self, event: Step) -> str:
        speed = f"[cyan]{short_count(rate(event.tokens, event.seconds))} tok/s[/]"
        loss = f"loss [bold]{event.loss:.4f}[/]"
        if self.console.width < WIDE:
            return f"{loss} {speed}"
        return f"{loss}  lr {event.lr:.1e}  {speed}  {size(held_bytes(event))}"

    def _progress(self, event: Progress) -> None:
        if event.done < event.total or event.task in self.tasks:
            self._advance(event.task, event.done, event.total, "")
        if event.done >= event.total and self.live is not None and event.task in self.tasks:
            self.live.remove_task(self.tasks.pop(event.task))

    def _quantizing(self, event: Quantizing) -> None:
        now = time.monotonic()
        if not self.tasks:
            self.task_started = now
        text = progress_text(event, now - self.task_started)
        self._advance("quantizing", event.done_bytes // MEBIBYTE, max(1, event.total_bytes // MEBIBYTE), text)

    def _generated(self, event: Generated) -> None:
        self._stop()
        self.out.write(event.text)
        self.out.flush()
        self.line_is_open = not event.text.endswith("\n")

    def _above_the_bar(self, event: Compiling | Eval | QuantizationStarted | Saved | Notice) -> None:
        from rich.text import Text

        line = Text()
        match event:
            case Eval():
                line.append("eval    ", style="magenta")
                line.append(f"step {event.step}  loss ").append(f"{event.loss:.4f}", style="bold")
                line.append(f"  {'  '.join(quality(event))}  {duration(event.seconds)}")
                line.append("  best so far" if event.is_best else "", style="green")
            case Compiling():
                line.append("note    ", style="blue").append(compiling_line(event))
            case QuantizationStarted():
                line.append("note    ", style="blue").append(quantization_line(event))
            case Saved():
                line.append("saved   ", style="green").append(f"{event.kind} ")
                line.append(str(event.path), style="bold").append(f"  {size(event.n_bytes)}", style="dim")
            case Notice():
                is_info = event.level == "info"
                line.append("note    " if is_info else "warning ", style="blue" if is_info else "yellow")
                line.append(event.message)
        (self.live.console if self.live else self.console).print(line, soft_wrap=True)

    def _advance(self, task: str, done: int, total: int, text: str) -> None:
        live = self.live or self._start()
        if task not in self.tasks:
            start = self.first_step if task == "training" else 0
            self.tasks[task] = live.add_task(task, total=total, completed=start, text="")
        live.update(self.tasks[task], completed=done, total=total, text=text)
        now = time.monotonic()
        if now - self.drawn_at >= REDRAW_SECONDS or done >= total:
            live.refresh()
            self.drawn_at = now

    def _start(self) -> LiveProgress:
        from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as LiveProgress
        from rich.text import Text

        took, eta = ("took ", "ETA ") if self.console.width >= WIDE else ("", "")

        class Ending(TimeRemainingColumn):
            def render(self, task: Task) -> Text:
                return Text.assemble(took if task.finished else eta, super().render(task), no_wrap=True)

        self.live = LiveProgress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            Ending(elapsed_when_finished=True),
            console=self.console,
            auto_refresh=False,
            expand=True,
            speed_estimate_period=60.0,
        )
        self.live.start()
        return self.live

    def _stop(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
            self.tasks.clear()

    def _facts(self, facts: list[Fact]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim", no_wrap=True, min_width=7)
        table.add_column(overflow="fold")
        for name, text in facts:
            table.add_row(name, Text(text))
        self.console.print(table)
