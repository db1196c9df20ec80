"""One task, two contestants: turns of some steps each, A B A B ..., so that a warm card or a slow moment hits both.

Between turns a contestant keeps its weights and gives back the rest of its memory. Where the weights of all do not fit
together, one trains after the other is gone. If memory runs out, all try again with half of the rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.child import Child, ChildEnded, ChildTimedOut, Message
from benchmarks.gpu.task import Task

ROUNDS = 5
WARM, STEPS = 1, 3

_BUILDING_SECONDS = 120.0
_TURN_SECONDS = 60.0
GRACE = 10.0
"""What is waited for beyond the end of all races."""


class OutOfMemory(RuntimeError):
    """A contestant has no memory left on the device."""


class ContestantFailed(RuntimeError):
    """A contestant said that something is wrong, or ended, or said nothing; `name` is whose."""

    def __init__(self, name: str, message: object) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


class TooLate(RuntimeError):
    """The time of all races is over, and a contestant is not done."""


@dataclass
class Contestant:
    """One process, and what its turns took.

    Attributes:
        name: in the table.
        module: see `contestant`.
        arguments: of its command line.
        log: of what it prints.
        deadline: of all races.
    """

    name: str
    module: str
    arguments: Sequence[str]
    log: Path
    deadline: Deadline
    turns: list[Message] = field(default_factory=list)
    _child: Child | None = None
    _is_ready: bool = False

    def start(self) -> None:
        """Begin to load libraries."""
        if self._child is None:
            self._child = Child(self.module, self.arguments, self.log)
            self._is_ready = False

    def wait_until_ready(self) -> None:
        if not self._is_ready:
            self._receive(_BUILDING_SECONDS)
            self._is_ready = True

    def build(self, task: Task) -> None:
        """Build the model; what turns took before is forgotten."""
        self.turns.clear()
        self.start()
        self.wait_until_ready()
        self._ask({"task": task.message()}, _BUILDING_SECONDS)

    def take_turn(self, warm: int = WARM, steps: int = STEPS) -> None:
        self.turns.append(self._ask({"warm": warm, "steps": steps}, _TURN_SECONDS))

    def stop(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _ask(self, message: Message, seconds: float) -> Message:
        assert self._child is not None
        try:
            self._child.send(message)
        except ChildEnded as error:
            raise ContestantFailed(self.name, error) from error
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Message:
        assert self._child is not None
        try:
            answer = self._child.receive(min(seconds, self.deadline.left + GRACE))
        except (ChildEnded, ChildTimedOut) as error:
            self._child.kill()
            if isinstance(error, ChildTimedOut) and self.deadline.is_past:
                raise TooLate(self.name) from error
            raise ContestantFailed(self.name, error) from error
        if "error" not in answer:
            return answer
        if answer["out_of_memory"]:
            raise OutOfMemory(f"{self.name}: {answer['error']}")
        raise ContestantFailed(self.name, answer["error"])


@dataclass(frozen=True)
class Result:
    """What a contestant did, in medians over its turns.

    Attributes:
        seconds: of a step.
        first_loss, last_loss: before the first step and before the last.
        attention: what attends, in words.
    """

    name: str
    task: Task
    seconds: float
    first_loss: float
    last_loss: float
    peak_bytes: int
    attention: str
    turns: int

    @property
    def tokens_per_second(self) -> float:
        return self.task.tokens / self.seconds

    @classmethod
    def of(cls, contestant: Contestant, task: Task) -> Result:
        turns = contestant.turns
        seconds = statistics.median(turn["seconds"] for turn in turns)
        peak = max(turn["peak_bytes"] for turn in turns)
        losses = turns[0]["first_loss"], turns[-1]["last_loss"]
        return cls(contestant.name, task, seconds, *losses, peak, turns[-1]["attention"], len(turns))


@dataclass(frozen=True)
class Race:
    """What came of it.

    Attributes:
        results: of the contestants, ours first; those that time was too short for are not there.
        ratios: the seconds of the fastest peer over ours, turn by turn.
        fastest: the name of that peer; empty without one.
        together: whether turns were taken in turn.
    """

    results: list[Result]
    ratios: list[float]
    fastest: str
    together: bool


def run_race(
    contestants: Sequence[Contestant], task: Task, together: bool, before_turns: Callable[[], None] = lambda: None
) -> Race:
    """Let all train the task, until there are enough turns or time is over, after one each at least.

    Args:
        contestants: ours first.
        task: with as many rows as should fit.
        together: all hold their weights at once.
        before_turns: called when all is ready to be measured.

    Raises:
        OutOfMemory: one row is too much for a contestant alone.
        ContestantFailed: see there.
        TooLate: time was over before ours had a turn.
    """
    while True:
        try:
            return (_in_turn if together else _one_by_one)(contestants, task, before_turns)
        except OutOfMemory:
            for one in contestants:
                one.stop()
            if together and len(contestants) > 1:
                together = False
            elif task.rows > 1:
                task = replace(task, rows=task.rows // 2)
            else:
                raise


def _in_turn(contestants: Sequence[Contestant], task: Task, before_turns: Callable[[], None]) -> Race:
    for one in contestants:
        one.build(task)
    before_turns()
    for number in range(ROUNDS):
        if number and contestants[0].deadline.is_past:
            break
        try:
            for one in contestants:
                one.take_turn()
        except TooLate:
            if number == 0:
                raise
            break
    for one in contestants:
        del one.turns[len(contestants[-1].turns) :]  # a round that was cut short
    return _race(contestants, task, together=True)


def _one_by_one(contestants: Sequence[Contestant], task: Task, before_turns: Callable[[], None]) -> Race:
    done: list[Contestant] = []
    for one in contestants:
        try:
            one.build(task)
            before_turns()
            one.take_turn(WARM + 1, ROUNDS)
        except TooLate:
            if not done:
                raise
            break
        one.stop()
        done.append(one)
    return _race(done, task, together=len(contestants) == 1)


def _race(contestants: Sequence[Contestant], task: Task, together: bool) -> Race:
    results = [Result.of(one, task) for one in contestants]
    if len(results) < 2:
        return Race(results, [], "", together)
    fastest = min(range(1, len(results)), key=lambda index: results[index].seconds)
    pairs = zip(contestants[0].turns, contestants[fastest].turns, strict=True)
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
    return Race(results, ratios, results[fastest].name, together)
