"""How a distillation is shown in a plan."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from entrenar_cli.distill_view import cache_in_words, distill_sections, pairs_in_words
from entrenar_cli.sections import print_sections
from entrenar_core.stages.plan_types import BlockPair, DistillPlan, StudentFacts, TeacherCacheFacts, TeacherFacts

MIB = 1 << 20
TEACHER = TeacherFacts("big.gguf", "Q4_K", 600 * MIB, 28, 1536, 0.25, 0.995)
CACHE = TeacherCacheFacts("cache", 64, 4096, "float32", 12345, 8 * MIB, 8 * MIB)
PLAN = DistillPlan(
    objective="0.5 × forward KL at temperature 2 from big.gguf (Q4_K) + 0.5 × cross-entropy",
    teachers=(TEACHER, replace(TEACHER, path="other.gguf", share=0.75)),
    compared=4000,
    vocab_size=4096,
    student=StudentFacts(6, 512, 8, 4, 1024, 30_000_000, "blocks 0 and 5 of 6; 512 of 768 channels"),
    layers=(BlockPair(0, 1), BlockPair(1, 3)),
    cache=CACHE,
    on_policy="50% of the batches",
)


def shown(plan: DistillPlan | None) -> str:
    out = io.StringIO()
    print_sections(distill_sections(plan), out)
    return out.getvalue()


def test_everything_that_is_known_is_shown() -> None:
    text = shown(PLAN)
    for part in (
        PLAN.objective,
        "6 layers of 512, 8 heads on 4 key/value heads, ffn 1,024, 30M parameters; made of blocks 0 and 5 of 6",
        "4,000 of the student's 4,096 tokens are compared",
        "0 follows 1, 1 follows 3",
        "cache: the likeliest 64 of 4,096 tokens in float32 at 12,345 positions, 8.0 MiB; it is made first",
        "50% of the batches",
    ):
        assert part in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["big.gguf"])
    assert row.split() == ["big.gguf", "Q4_K", "600.0", "MiB", "28", "×", "1,536", "25", "%", "99.5", "%"]


def test_what_there_is_not_is_left_out() -> None:
    text = shown(replace(PLAN, student=None, layers=(), cache=None, on_policy=""))
    for name in ("student ", "blocks ", "cache ", "on-policy "):
        assert not any(line.startswith(f"  {name}") for line in text.splitlines()), name
    assert shown(None) == ""


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"missing": 0}, "8.0 MiB; it is complete, no teacher runs"),
        ({"missing": MIB}, "8.0 MiB; 1.0 MiB are missing and made first"),
        ({"targets": None, "n_bytes": None, "missing": None}, "the likeliest 64 of 4,096 tokens in float32"),
        (
            {"top_k": 4096, "missing": 0},
            "all of 4,096 tokens in float32 at 12,345 positions, 8.0 MiB; it is complete, no teacher runs",
        ),
    ],
)
def test_how_much_of_a_cache_there_is_is_said(changes: dict[str, int | None], end: str) -> None:
    assert cache_in_words(replace(CACHE, **changes)).endswith(end)  # type: ignore[arg-type]


def test_of_many_pairs_the_first_are_shown() -> None:
    assert pairs_in_words([BlockPair(one, one) for one in range(20)]).endswith("15 follows 15 and 4 more")
