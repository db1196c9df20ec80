"""What a run amounts to: gathered from its events, and said as a few named facts before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from entrenar_cli.quantities import duration, exact_count, few_digits, perplexity, rate, short_count, size
from entrenar_core.events import (
    Compiling,
    Eval,
    Event,
    Finished,
    Predicted,
    QuantizationStarted,
    RunStarted,
    Saved,
    Step,
)

_RESULTS = ("model", "adapter", "head")
"""Kinds of files that a person wants to find again; the others are beside them."""

_METRIC_NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "mse": "MSE", "mae": "MAE", "r2": "R²"}

_PART_NAMES = {"cross_entropy": "cross-entropy"}

Fact = tuple[str, str]
"""A name and what there is to say."""


def before_the_run(event: RunStarted) -> list[Fact]:
    """Model, data and run, each on one line."""
    share = rate(100 * event.trainable_parameters, event.parameters)
    trained = (
        "all trained"
        if event.trainable_parameters == event.parameters
        else (f"{short_count(event.trainable_parameters)} trained ({few_digits(share)}%)")
    )
    validation = f", {exact_count(event.val_examples)} for validation" if event.val_examples else ""
    first = f", {exact_count(event.first_step)} of them done before" if event.first_step else ""
    threads = f"{event.threads} thread{'s' if event.threads != 1 else ''}"
    objective = [("objective", event.objective)] if event.objective else []
    return [
        ("model", f"{event.model} ({event.architecture}), {short_count(event.parameters)} parameters, {trained}"),
        *objective,
        ("data", f"{exact_count(event.train_examples)} examples{validation}"),
        ("run", f"{exact_count(event.total_steps)} steps{first}, {event.device}, {threads}, in {event.output_dir}"),
    ]


def step_line(event: Step) -> str:
    """One step as a line of a log."""
    width = len(str(event.total_steps))
    return (
        f"step {event.step:>{width}}/{event.total_steps}  epoch {event.epoch:.2f}  loss {event.loss:.4f}"
        f"{parts_text(event)}  lr {event.lr:.2e}  grad norm {event.grad_norm:.3g}"
        f"  {short_count(rate(event.tokens, event.seconds))} tok/s  {size(held_bytes(event))}"
    )


def held_bytes(event: Step) -> int:
    """The memory that a step needs most of: the GPU's where there is one."""
    return event.peak_memory_bytes if event.peak_device_bytes is None else event.peak_device_bytes


def parts_text(event: Step) -> str:
    """What the loss is made of, in brackets; nothing for a loss of one part."""
    parts = [f"{_PART_NAMES.get(name, name)} {value:.4f}" for name, value in event.parts.items()]
    return f" ({', '.join(parts)})" if parts else ""


def compiling_line(event: Compiling) -> str:
    """Why nothing else happens for some seconds."""
    return f"compiling the kernels for {event.what} (once on this machine)"


def eval_line(event: Eval) -> str:
    """One evaluation as a line of a log."""
    best = "  best so far" if event.is_best else ""
    return (
        f"validation at step {event.step}  loss {event.loss:.4f}  {'  '.join(quality(event))}"
        f"  in {duration(event.seconds)}{best}"
    )


def quality(event: Eval) -> list[str]:
    """What the loss comes to: the metrics of a head, or the perplexity of a language model."""
    return metric_texts(event.metrics) or [f"perplexity {perplexity(event.loss)}"]


def metric_texts(metrics: Mapping[str, float | None]) -> list[str]:
    """``accuracy 0.9531``, one text for each metric."""
    return [
        f"{_METRIC_NAMES.get(name, name)} {'undefined' if value is None else f'{value:.4g}'}"
        for name, value in metrics.items()
    ]


def prediction_facts(event: Predicted) -> list[Fact]:
    """What became of the rows, and how good the predictions are where that is known."""
    facts = [("predictions", f"{event.path} ({_rows(event.rows)} in {duration(event.seconds)})")]
    if event.without_text:
        facts.append(("without text", f"{_rows(event.without_text)}: no prediction"))
    if event.truncated:
        facts.append(("truncated", f"{_rows(event.truncated)} longer than the model was trained for"))
    if event.metrics:
        facts.append(("quality", f"{', '.join(metric_texts(event.metrics))} on {_rows(event.judged)}"))
    return facts


def _rows(count: int) -> str:
    return f"{exact_count(count)} row{'s' if count != 1 else ''}"


def _which_weights(finished: Finished, best: Eval) -> str:
    """Whose weights the files hold, where the best ones are not the last ones."""
    if finished.result_step == best.step:
        return "the files hold its weights"
    return "the files hold the weights of the last step (training.early_stopping keeps the best)"


def quantization_line(event: QuantizationStarted) -> str:
    """When weights begin to be rounded, and to what."""
    kinds = ", ".join(f"{exact_count(count)} in {name}" for name, count in event.matrices.items())
    when = "from the first step on" if event.step == 0 else f"from here on (step {exact_count(event.step)} is done)"
    return f"weights are quantized {when}: matrices {kinds}"


def saved_line(event: Saved) -> str:
    """One file that is complete."""
    return f"saved {event.kind} {event.path} ({size(event.n_bytes)})"


@dataclass
class RunSummary:
    """Adds up the events of one run."""

    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_bytes: int | None = None
    first_step: int = 0
    best: Eval | None = None
    last: Eval | None = None
    results: list[Saved] = field(default_factory=list)

    def note(self, event: Event) -> None:
        """Take one event into account."""
        if isinstance(event, RunStarted):
            self.first_step = event.first_step
        elif isinstance(event, Step):
            self.tokens += event.tokens
            self.supervised_tokens += event.supervised_tokens
            self.seconds += event.seconds
            self.peak_memory_bytes = max(self.peak_memory_bytes, event.peak_memory_bytes)
            self.peak_device_bytes = event.peak_device_bytes
        elif isinstance(event, Eval):
            self.last = event
            self.best = event if event.is_best else self.best
        elif isinstance(event, Saved) and event.kind in _RESULTS:
            self.results.append(event)

    def facts(self, finished: Finished) -> list[Fact]:
        """What the run came to, and what it left."""
        done = finished.steps - self.first_step
        steps = f"{exact_count(done)} step{'s' if done != 1 else ''}"
        facts = [
            ("run", f"{steps} in {duration(finished.seconds)}: {finished.reason}"),
            ("training loss", f"{finished.train_loss:.4f}"),
        ]
        if finished.val_loss is not None:
            said = "" if self.last is None else f" ({', '.join(quality(self.last))})"
            facts.append(("validation loss", f"{finished.val_loss:.4f}{said}"))
        if self.best is not None and self.best.loss != finished.val_loss:
            said = ", ".join([f"{self.best.loss:.4f}", *metric_texts(self.best.metrics)])
            said = f"{said} at step {exact_count(self.best.step)}"
            facts.append(("best validation loss", f"{said}; {_which_weights(finished, self.best)}"))
        if self.seconds > 0:
            total, supervised = rate(self.tokens, self.seconds), rate(self.supervised_tokens, self.seconds)
            facts.append(("speed", f"{short_count(total)} tokens/s, {short_count(supervised)} of them supervised"))
            on_device = "" if self.peak_device_bytes is None else f", {size(self.peak_device_bytes)} on the GPU"
            facts.append(("peak memory", f"{size(self.peak_memory_bytes)}{on_device}"))
        return facts + [(saved.kind, f"{saved.path} ({size(saved.n_bytes)})") for saved in self.results]
