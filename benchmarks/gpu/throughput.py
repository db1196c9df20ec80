"""Training steps against torch + transformers + peft: what is raced, in which order, and what comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.child import Message
from benchmarks.gpu.machine import installed_version
from benchmarks.gpu.race import Contestant, ContestantFailed, OutOfMemory, Race, TooLate, run_race
from benchmarks.gpu.report import FAILED, NOT_MEASURED, Line
from benchmarks.gpu.task import Fit, Task, fit

OURS = "entrenar"
PEER = "torch + peft"
PEER_MODULE = "benchmarks.gpu.peer"
GOAL_MET, GOAL_MISSED = "goal met", "goal missed"

LEAST_SECONDS = 25.0
"""What is left of the time for a race to begin."""

SPEED_GOAL = 1.5
MFU_GOAL = 0.5
LOSSES_DIFFER = 0.1

_LORA = "LoRA r16 on q, k, v, o"
_NEEDS = {"lora": ("torch", "transformers", "peft"), "full": ("torch", "transformers")}
_NEEDS["qlora"] = (*_NEEDS["lora"], "bitsandbytes")


@dataclass(frozen=True)
class Contest:
    """A task, and what is asked of it.

    Attributes:
        title: of its lines.
        task: with the most rows.
        no_peer: why there is no peer; empty: there is one.
        has_speed_goal, has_mfu_goal: the issue's.
    """

    title: str
    task: Task
    no_peer: str = ""
    has_speed_goal: bool = True
    has_mfu_goal: bool = False


CONTESTS = (
    Contest(f"{_LORA}, 7B", Task("llama7b", "lora", rows=8), has_mfu_goal=True),
    Contest("QLoRA r16 on q, k, v, o, 7B", Task("llama7b", "qlora", rows=8)),
    Contest(f"{_LORA}, 1B", Task("tl1b", "lora", rows=8)),
    Contest("QLoRA r16 on q, k, v, o, 1B", Task("tl1b", "qlora", rows=8)),
    Contest("full, 1B", Task("tl1b", "full", rows=8), has_speed_goal=False),
    Contest(
        "QLoRA r16 on q, k, v, o, 70B",
        Task("llama70b", "qlora", rows=1, checkpointing=True),
        no_peer="would first hold 140 GB in bfloat16",
        has_speed_goal=False,
    ),
    Contest("full, 7B", Task("llama7b", "full", rows=4, checkpointing=True), has_speed_goal=False),
)
"""The most important first."""


@dataclass(frozen=True)
class Field:
    """Who races: the module of our contestant, and those of peers that are installed.

    Attributes:
        ours: module.
        missing: of a kind of task, the first package that the peer lacks; empty if it has all.
        attentions: of the peer.
        log: of all processes.
    """

    ours: str
    missing: Callable[[str], str]
    attentions: Sequence[str]
    log: Path

    def contestants(self, contest: Contest, deadline: Deadline) -> list[Contestant]:
        """Ours first."""
        found = [Contestant(OURS, self.ours, (), self.log, deadline)]
        if self.absent_peer(contest):
            return found
        for attention in self.attentions:
            arguments = ("--attention", attention)
            found.append(Contestant(f"{PEER}, {attention}", PEER_MODULE, arguments, self.log, deadline))
        return found

    def absent_peer(self, contest: Contest) -> str:
        """Why no peer takes part; empty if one does."""
        lacking = self.missing(contest.task.kind)
        return contest.no_peer or (f"{lacking} is not installed" if lacking else "")


def missing_package(kind: str) -> str:
    """What the peer lacks for a kind of task on this machine; empty if nothing."""
    return next((name for name in _NEEDS[kind] if installed_version(name) is None), "")


def installed_attentions() -> list[str]:
    return ["sdpa", *(["flash_attention_2"] if installed_version("flash_attn") else [])]


def race_all(
    field: Field, memory_bytes: float, deadline: Deadline, contests: Sequence[Contest] = CONTESTS
) -> Iterator[Message]:
    """A message for each contest, as soon as it is over. While models are built, those who come next load libraries."""
    lists = [field.contestants(contest, deadline) for contest in contests]
    try:
        for contest, contestants, following in zip(contests, lists, [*lists[1:], []], strict=True):
            found = _contest(contest, contestants, following, memory_bytes, deadline)
            yield {"title": contest.title, **found, "absent_peer": field.absent_peer(contest)}
    finally:
        for one in chain(*lists):
            one.stop()


def _contest(
    contest: Contest,
    contestants: Sequence[Contestant],
    following: Sequence[Contestant],
    memory_bytes: float,
    deadline: Deadline,
) -> Message:
    if deadline.left < LEAST_SECONDS:
        return {"not_measured": "time"}
    fitting = fit(contest.task, len(contestants), memory_bytes)
    if fitting is None:
        return {"not_measured": f"{memory_bytes / 2**30:.0f} GiB of memory are too little"}
    for one in following:
        one.start()

    def wait_for_the_next() -> None:
        for one in following:
            one.wait_until_ready()

    try:
        return _race_of_the_able(contestants, fitting, wait_for_the_next)
    except OutOfMemory as error:
        return {"not_measured": f"out of memory: {error}"}
    except TooLate:
        return {"not_measured": "time"}
    except ContestantFailed as error:
        return {"failed": str(error)}
    finally:
        for one in contestants:
            one.stop()


def _race_of_the_able(contestants: Sequence[Contestant], fitting: Fit, before_turns: Callable[[], None]) -> Message:
    """A race without the peers that fail in it, which are named.

    Raises:
        ContestantFailed: ours did.
    """
    failed: list[str] = []
    while True:
        try:
            race = run_race(contestants, fitting.task, fitting.together, before_turns)
        except ContestantFailed as error:
            if error.name == OURS:
                raise
            failed.append(str(error))
            for one in contestants:
                one.stop()
            contestants = [one for one in contestants if one.name != error.name]
        else:
            return {**_message(race), "failed_peers": failed}


def _message(race: Race) -> Message:
    results = [
        {
            "contestant": one.name,
            "seconds": one.seconds,
            "tokens_per_second": one.tokens_per_second,
            "flops_per_second": one.task.flops / one.seconds,
            "peak_bytes": one.peak_bytes,
            "first_loss": one.first_loss,
            "last_loss": one.last_loss,
            "attention": one.attention,
            "turns": one.turns,
        }
        for one in race.results
    ]
    task = race.results[0].task
    return {
        "task": task.message(),
        "results": results,
        "ratios": race.ratios,
        "fastest_peer": race.fastest,
        "together": race.together,
    }


def contest_lines(part: str, message: Message, matrix_rate: float | None) -> Iterator[Line]:
    """The lines of one contest: each contestant, then what is asked of ours."""
    title = message["title"]
    if "results" not in message:
        verdict = FAILED if "failed" in message else NOT_MEASURED
        yield Line(part, title, found=message.get("failed") or message["not_measured"], verdict=verdict)
        return
    task, results = Task.of(message["task"]), message["results"]
    how = f"B{task.rows} T{task.length}" + (", checkpointing" if task.checkpointing else "")
    for result in results:
        yield Line(part, f"{title}: {result['contestant']}", how, _figures(result, matrix_rate))
    absent = message["failed_peers"] or ([] if len(results) > 1 else [message["absent_peer"] or "time"])
    for reason in absent:
        yield Line(part, f"{title}: {PEER}", how, reason, verdict=NOT_MEASURED)
    contest = next((one for one in CONTESTS if one.title == title), None)
    if contest is not None and contest.has_mfu_goal and matrix_rate:
        share = results[0]["flops_per_second"] / matrix_rate
        yield Line(part, f"{title}: MFU", how, f"{share:.0%}", f"≥ {MFU_GOAL:.0%}", _verdict(share >= MFU_GOAL))
    if len(results) > 1:
        yield from _against_the_peer(part, title, how, message, contest is None or contest.has_speed_goal)


def _figures(result: Message, matrix_rate: float | None) -> str:
    share = f"MFU {result['flops_per_second'] / matrix_rate:.0%}, " if matrix_rate else ""
    return (
        f"{result['tokens_per_second']:,.0f} tok/s, {share}{result['peak_bytes'] / 2**30:.1f} GiB,"
        f" loss {result['first_loss']:.3f} to {result['last_loss']:.3f},"
        f" attention: {result['attention']}"
    )


def _against_the_peer(part: str, title: str, how: str, message: Message, has_goal: bool) -> Iterator[Line]:
    ours = message["results"][0]
    theirs = next(one for one in message["results"] if one["contestant"] == message["fastest_peer"])
    ratios = message["ratios"]
    ratio = statistics.median(ratios)
    turns = f" ({min(ratios):.2f} to {max(ratios):.2f})" if message["together"] else " (one after the other)"
    goal = (f"≥ {SPEED_GOAL:g}", _verdict(ratio >= SPEED_GOAL)) if has_goal else ("", "")
    yield Line(part, f"{title}: speed over the peer's", how, f"{ratio:.2f} times{turns}", *goal)
    memory = f"{ours['peak_bytes'] / 2**30:.1f} and {theirs['peak_bytes'] / 2**30:.1f} GiB"
    verdict = _verdict(ours["peak_bytes"] < theirs["peak_bytes"])
    yield Line(part, f"{title}: peak memory, ours and theirs", how, memory, "below", verdict)
    losses = ours["first_loss"], theirs["first_loss"]
    if abs(losses[0] - losses[1]) > LOSSES_DIFFER * losses[1]:
        yield Line(part, f"{title}: losses are far apart", how, f"{losses[0]:.3f} and {losses[1]:.3f}")


def _verdict(is_met: bool) -> str:
    return GOAL_MET if is_met else GOAL_MISSED
