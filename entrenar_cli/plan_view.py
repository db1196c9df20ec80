"""How a dry run is shown: the plan as sections, then a few examples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from entrenar_cli.distill_view import distill_sections
from entrenar_cli.documents import plain
from entrenar_cli.preview import print_previews
from entrenar_cli.quantities import duration, exact_count, few_digits, rate, short_count, size
from entrenar_cli.sections import Facts, Section, Table, print_sections
from entrenar_cli.visible import shortened
from entrenar_core.stages.dry_run import CheckedRun
from entrenar_core.stages.estimate import MemoryEstimate
from entrenar_core.stages.fit import Verdict
from entrenar_core.stages.plan_types import RunPlan, SourcePlan, StepPlan, TimePlan, TokenCounts

LONGEST_REASON = 60
MAX_COLUMNS = 30


def show_plan(plan: RunPlan, out: TextIO | None = None) -> None:
    """Write the plan and its examples to `out` (default: stdout)."""
    stream = sys.stdout if out is None else out
    print_sections(plan_sections(plan), stream)
    print_previews(plan.previews, stream)


def plan_document(plan: RunPlan) -> dict[str, object]:
    """The plan for ``--json``: its fields, and the sums and verdicts that follow from them."""
    document = plain(plan)
    assert isinstance(document, dict)
    document["memory"] |= {"total": plan.memory.total, "needed": plan.memory.needed}
    document["memory_verdict"] |= {"fits": plan.memory_verdict.fits}
    document["disk"] |= {"total": plan.disk.total, "fits": plan.disk.fits}
    with_parts = [document["memory"], document["disk"]]
    if (on_device := plan.device_memory) is not None:
        document["device_memory"]["memory"] |= {"total": on_device.memory.total}
        document["device_memory"]["verdict"] |= {"fits": on_device.verdict.fits}
        with_parts.append(document["device_memory"]["memory"])
    for one in with_parts:
        one["parts"] = [{"name": name, "n_bytes": n_bytes} for name, n_bytes in one["parts"]]
    return document


def plan_sections(plan: RunPlan) -> list[Section]:
    """What there is to say, without the examples."""
    return [
        Facts("plan", [*_model(plan), *_run(plan.steps, plan.time), *_place(plan)]),
        *distill_sections(plan.distill),
        *(_source(source, "data") for source in plan.train),
        *(_source(source, "validation data") for source in plan.val),
        _tokens(plan),
        _memory("memory", plan.memory, plan.memory_verdict),
        *([_memory("GPU memory", on_device.memory, on_device.verdict)] if (on_device := plan.device_memory) else []),
        _disk(plan),
        Facts("warnings", [(f"{number}.", text) for number, text in enumerate(plan.warnings, start=1)]),
    ]


def checked_sections(found: CheckedRun) -> list[Section]:
    """What `entrenar validate` says of a config that is right."""
    facts = [
        ("model", f"{shortened(found.model, 80)} ({found.architecture})"),
        ("method", found.method),
        ("output", found.output_dir),
        ("data", "streamed while training" if found.is_streamed else ""),
    ]
    return [
        Facts("checked", facts),
        *distill_sections(found.distill),
        *(_source(source, "data") for source in found.train),
        *(_source(source, "validation data") for source in found.val),
        Facts("warnings", [(f"{number}.", text) for number, text in enumerate(found.warnings, start=1)]),
    ]


def _place(plan: RunPlan) -> list[tuple[str, str]]:
    return [("device", plan.device.removeprefix("computing on ")), ("output", plan.output_dir)]


def _model(plan: RunPlan) -> list[tuple[str, str]]:
    share = rate(100 * plan.trainable_parameters, plan.parameters)
    counts = f"{short_count(plan.trainable_parameters)} of {short_count(plan.parameters)} parameters"
    return [
        ("model", f"{shortened(plan.model, 80)} ({plan.architecture})"),
        ("method", plan.method),
        ("trained", f"{counts} ({few_digits(share)} %)"),
    ]


def _run(steps: StepPlan, time: TimePlan | None) -> list[tuple[str, str]]:
    batch = f"{exact_count(steps.batch_rows)} rows of up to {exact_count(steps.row_width)} tokens"
    times = f", {steps.batches_per_step} batches to a step" if steps.batches_per_step > 1 else ""
    found = [
        ("steps", f"{exact_count(steps.steps)} ({_epochs(steps.epochs)})"),
        ("batch", f"{batch}{times}"),
        ("evaluations", exact_count(steps.evaluations) if steps.evaluations else ""),
    ]
    if time is None:
        return found
    speed = f"{short_count(time.tokens_per_second)} tokens/s, {few_digits(time.seconds_per_step)} s a step"
    return [*found, ("time", f"about {duration(time.seconds)} ({speed}; {time.method})")]


def _epochs(count: float) -> str:
    shown = few_digits(count)
    return "1 epoch" if shown == "1" else f"{shown} epochs"


def _source(source: SourcePlan, what: str) -> Section:
    weight = "" if source.weight == 1 else f", weight {source.weight:g}"
    why = f" ({source.reason})" if source.reason else ""
    facts = f"{exact_count(source.rows)} rows, {size(source.n_bytes)}{weight}; task: {source.task}{why}"
    rows = [
        (shortened(one.name, 40), one.kind, one.role or "ignored", shortened(one.reason, LONGEST_REASON))
        for one in sorted(source.columns, key=lambda one: one.role is None)[:MAX_COLUMNS]
    ]
    hidden = len(source.columns) - len(rows)
    more = [(f"and {hidden} more", "", "ignored", "")] if hidden else []
    title = f"{what}: {shortened(source.path, 100)}: {facts}"
    return Table(title, ("column", "type", "used as", "because"), rows + more)


def _tokens(plan: RunPlan) -> Table:
    sets = [("train", plan.train_tokens), *([("validation", plan.val_tokens)] if plan.val_tokens else [])]
    columns = ["set", "samples", "tokens", "learned", "share", "too long", "cut off", "refused"]
    rows = [(name, *_counts(counts)) for name, counts in sets]
    title = "tokens of one epoch"
    if any(counts.is_estimate for _, counts in sets):
        title += " (estimated from a part of the data)"
    reasons = [f"{name}: {exact_count(n)} {why}" for name, counts in sets for why, n in (counts.refused or {}).items()]
    if reasons:
        title += f"; refused: {'; '.join(reasons)}"
    return Table(title, columns, rows, frozenset(range(1, len(columns))))


def _counts(counts: TokenCounts) -> Sequence[str]:
    share = rate(100 * counts.supervised_tokens, counts.total_tokens)
    return (
        exact_count(counts.samples),
        exact_count(counts.total_tokens),
        exact_count(counts.supervised_tokens),
        f"{share:.1f} %",
        exact_count(counts.overlong_samples),
        exact_count(counts.truncated_tokens),
        exact_count(sum((counts.refused or {}).values())),
    )


def _memory(title: str, memory: MemoryEstimate, verdict: Verdict) -> Table:
    total = memory.total
    rows = [(name, size(n_bytes), f"{rate(100 * n_bytes, total):.0f} %") for name, n_bytes in memory.parts]
    rows.append(("peak", size(total), ""))
    return Table(f"{title}: {memory_sentence(verdict)}", ("part", "size", "share"), rows, frozenset({1, 2}))


def memory_sentence(verdict: Verdict) -> str:
    """Whether the run fits, and what to change where it does not."""
    needed = f"needs {size(verdict.needed)}"
    if verdict.available is None:
        return f"{needed}; how much is free is not known"
    if verdict.fits:
        return f"{needed} of {size(verdict.available)} that are free"
    short = f"{needed}, but only {size(verdict.available)} are free: it will not fit"
    if verdict.change is None:
        return f"{short}; use a smaller model, or LoRA"
    return f"{short}; {verdict.change.keys} would need {size(verdict.change.needed)}"


def _disk(plan: RunPlan) -> Table:
    disk = plan.disk
    rows = [(name, size(n_bytes)) for name, n_bytes in disk.parts]
    rows.append(("all", size(disk.total)))
    free = "" if disk.free is None else f" of {size(disk.free)} that are free"
    verdict = "" if disk.fits else ": it will not fit"
    return Table(f"disk: needs {size(disk.total)}{free}{verdict}", ("file", "size"), rows, frozenset({1}))
