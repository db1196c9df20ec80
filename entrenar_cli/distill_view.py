"""How a distillation is shown in the plan of a run: the objective, the teachers, the student and the cache."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_cli.quantities import exact_count, few_digits, short_count, size
from entrenar_cli.sections import Facts, Section, Table
from entrenar_cli.visible import shortened
from entrenar_core.stages.plan_types import BlockPair, DistillPlan, StudentFacts, TeacherCacheFacts

MOST_PAIRS = 16
"""Pairs of blocks that are shown."""


def distill_sections(plan: DistillPlan | None) -> list[Section]:
    """What there is to say; nothing of a run without teachers."""
    if plan is None:
        return []
    facts = [
        ("objective", plan.objective),
        ("student", "" if plan.student is None else student_in_words(plan.student)),
        (
            "vocabulary",
            f"{exact_count(plan.compared)} of the student's {exact_count(plan.vocab_size)} tokens are compared",
        ),
        ("blocks", pairs_in_words(plan.layers)),
        ("cache", "" if plan.cache is None else cache_in_words(plan.cache)),
        ("on-policy", plan.on_policy),
    ]
    rows = [
        (
            shortened(one.path, 80),
            one.type,
            size(one.n_bytes),
            f"{one.layers} × {exact_count(one.hidden_size)}",
            f"{few_digits(100 * one.share)} %",
            f"{100 * one.coverage:.1f} %",
        )
        for one in plan.teachers
    ]
    columns = ("file", "type", "size", "layers × hidden", "share", "of the student's tokens")
    return [Facts("distillation", facts), Table("teachers", columns, rows, frozenset({2, 3, 4, 5}))]


def student_in_words(student: StudentFacts) -> str:
    """Its shape, and what of the teacher it is."""
    heads = f"{student.heads} heads on {student.kv_heads} key/value heads"
    shape = f"{student.layers} layers of {exact_count(student.hidden_size)}, {heads}"
    counts = f"ffn {exact_count(student.intermediate_size)}, {short_count(student.parameters)} parameters"
    return f"{shape}, {counts}; made of {student.made_of}"


def pairs_in_words(pairs: Sequence[BlockPair]) -> str:
    """``0 follows 1, 1 follows 3``: the student's blocks and the teacher's."""
    shown = ", ".join(f"{pair.student} follows {pair.teacher}" for pair in pairs[:MOST_PAIRS])
    return f"{shown} and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else shown


def cache_in_words(cache: TeacherCacheFacts) -> str:
    """Where it is, what it keeps, and how much of it there is."""
    kept = "all" if cache.top_k == cache.vocab_size else f"the likeliest {exact_count(cache.top_k)}"
    what = f"{kept} of {exact_count(cache.vocab_size)} tokens in {cache.dtype}"
    if cache.targets is None or cache.n_bytes is None:
        return f"{cache.path}: {what}"
    return f"{cache.path}: {what} at {exact_count(cache.targets)} positions, {size(cache.n_bytes)}; {_state(cache)}"


def _state(cache: TeacherCacheFacts) -> str:
    if not cache.missing:
        return "it is complete, no teacher runs"
    if cache.missing == cache.n_bytes:
        return "it is made first"
    return f"{size(cache.missing)} are missing and made first"
