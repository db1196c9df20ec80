"""Races of training steps in `benchmarks.gpu_check`: who takes turns when, what fits, and what the table says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import contestant, race, task, throughput
from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.contestant import is_out_of_memory, take_turn
from benchmarks.gpu.ours import RandomWeights
from benchmarks.gpu.race import Contestant, ContestantFailed, OutOfMemory, TooLate, run_race
from benchmarks.gpu.task import Task, fit, resident_bytes, step_bytes
from benchmarks.gpu.throughput import CONTESTS, Contest, Field, contest_lines, race_all
from benchmarks.shapes import BY_NAME, LLAMA7B, LLAMA70B, TL1B

SMALL = Task("pico", "lora", rows=4, length=32)
GIB = 2**30


# work and memory


def test_work_is_counted_by_weight_and_attention() -> None:
    weights, attention = LLAMA7B.matrix_weights, 32 * 6 * 2048 * 4096
    assert LLAMA7B.step_flops_per_token(2048, trains_all=False) == 4 * weights + attention
    assert LLAMA7B.step_flops_per_token(2048, trains_all=True) == 6 * weights + attention
    assert Task("llama7b", "lora", rows=2).flops == 2 * 2048 * (4 * weights + attention)
    assert Task("llama7b", "full", rows=2).flops == 2 * 2048 * (6 * weights + attention)


@pytest.mark.parametrize(("shape", "billions"), [(TL1B, 1.10), (LLAMA7B, 6.74), (LLAMA70B, 68.98)])
def test_shapes_have_the_sizes_of_their_models(shape: Any, billions: float) -> None:
    assert shape.n_weights / 1e9 == pytest.approx(billions, abs=0.01)
    assert BY_NAME[shape.name] is shape


def test_weights_take_two_bytes_or_half_a_byte_or_eighteen() -> None:
    assert resident_bytes(Task("llama7b", "lora", 1)) / 6.74e9 == pytest.approx(2.0, abs=0.01)
    assert resident_bytes(Task("llama7b", "full", 1)) / 6.74e9 == pytest.approx(18, abs=0.1)
    assert 38e9 < resident_bytes(Task("llama70b", "qlora", 1)) < 41e9


def test_rows_are_halved_until_they_fit() -> None:
    wanted = Task("llama7b", "lora", rows=8)
    found = {size: fit(wanted, 2, size * GIB) for size in (24, 79, 139, 400)}
    rows = {size: None if one is None else (one.task.rows, one.together) for size, one in found.items()}
    assert rows == {24: None, 79: (4, True), 139: (8, True), 400: (8, True)}
    assert fit(Task("llama7b", "full", 4, checkpointing=True), 2, 79 * GIB) is None


def test_contestants_take_the_device_one_by_one_where_both_would_cost_more_than_half_of_the_rows() -> None:
    wanted = Task("tl1b", "full", rows=8)
    one, two = resident_bytes(wanted), 2 * resident_bytes(wanted)
    room = step_bytes(wanted)

    def memory(held: float) -> float:
        return (held + room + task._CONTEXTS) / task._USABLE * 1.001

    assert fit(wanted, 2, memory(two)) == task.Fit(wanted, together=True)
    assert fit(wanted, 2, memory(one)) == task.Fit(wanted, together=False)
    assert fit(wanted, 1, memory(one)) == task.Fit(wanted, together=True)


def test_every_contest_fits_an_h200_and_all_but_one_an_h100() -> None:
    assert all(fit(one.task, 1 if one.no_peer else 2, 139 * GIB) for one in CONTESTS)
    too_large = [one.title for one in CONTESTS if not fit(one.task, 1 if one.no_peer else 2, 79 * GIB)]
    assert too_large == ["full, 7B"]


# random weights


def test_random_weights_differ_from_tensor_to_tensor_and_have_their_spread() -> None:
    shapes = {"blk.0.attn_q.weight": (512, 256), "blk.0.ffn_down.weight": (512, 256), "blk.0.attn_norm.weight": (256,)}
    weights = RandomWeights(shapes, num_layers=8)
    q, down = (weights.values(name, (512, 256)) for name in list(shapes)[:2])
    assert q.std() == pytest.approx(0.02, rel=0.02)
    assert down.std() == pytest.approx(0.005, rel=0.02)
    assert not np.allclose(q, 4 * down)
    assert (weights.values("blk.0.attn_norm.weight", (256,)) == 1).all()
    for type_name in ("BF16", "Q4_K"):
        packed = [weights.packed(name, (512, 256), type_name) for name in list(shapes)[:2]]
        assert packed[0].values().std() == pytest.approx(0.02, rel=0.03)
        assert packed[1].values().std() == pytest.approx(0.005, rel=0.03)
        assert packed[0].shape == packed[1].shape == (512, 256)


# turns


class Steps:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self) -> str:
        self.said.append("step")
        return f"step {len(self.said)}"

    def loss_of(self, step: str) -> float:
        self.said.append(step)
        return 3.5

    def synchronize(self) -> None:
        self.said.append("wait")

    def attention(self) -> str:
        return "none"

    def peak_bytes(self) -> int:
        return 7

    def give_back(self) -> None:
        self.said.append("give back")


def test_a_turn_waits_before_and_after_the_steps_that_count() -> None:
    steps = Steps()
    found = take_turn(steps, warm=1, steps=2)
    assert steps.said == ["step", "wait", "step", "step", "wait", "step 1", "step 4", "give back"]
    assert (found["first_loss"], found["last_loss"], found["peak_bytes"]) == (3.5, 3.5, 7)
    assert found["seconds"] > 0


def test_errors_that_mean_no_memory() -> None:
    class OutOfMemoryError(Exception):
        """As CuPy and torch call theirs."""

    class DeviceMemoryError(Exception):
        """As ours is called."""

    assert all(is_out_of_memory(error) for error in (MemoryError(), OutOfMemoryError(), DeviceMemoryError("no room")))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(ValueError("wrong"))


@pytest.fixture
def field(tmp_path: Path) -> Callable[..., list[Contestant]]:
    def make(*arguments: str, seconds: float = 60.0) -> list[Contestant]:
        deadline = Deadline(seconds)
        return [
            Contestant(f"number {number}", "tests.benchmarks.gpu_contestant", each.split(), tmp_path / "log", deadline)
            for number, each in enumerate(arguments)
        ]

    return make


def stop(contestants: list[Contestant]) -> None:
    for one in contestants:
        one.stop()


def test_contestants_take_turns(field: Any) -> None:
    contestants = field("", "", "")
    ready: list[bool] = []
    found = run_race(contestants, SMALL, True, lambda: ready.append(True))
    stop(contestants)
    assert ready == [True]
    assert found.together
    assert [one.turns for one in found.results] == [race.ROUNDS] * 3
    assert [one.peak_bytes for one in found.results] == [1000 * race.ROUNDS * (race.WARM + race.STEPS)] * 3
    assert found.fastest in ("number 1", "number 2")
    assert len(found.ratios) == race.ROUNDS
    ours = found.results[0]
    assert ours.first_loss == 9
    assert ours.last_loss == 10 - race.ROUNDS * (race.WARM + race.STEPS)
    assert ours.tokens_per_second == pytest.approx(SMALL.tokens / ours.seconds)


def test_where_memory_ends_one_trains_after_the_other_and_then_with_fewer_rows(field: Any) -> None:
    contestants = field("", "--rows 2")
    found = run_race(contestants, SMALL, True)
    stop(contestants)
    assert not found.together
    assert [(one.task.rows, one.turns) for one in found.results] == [(2, 1), (2, 1)]
    assert len(found.ratios) == 1


def test_one_row_too_many_is_out_of_memory(field: Any) -> None:
    contestants = field("--builds-in-vain")
    with pytest.raises(OutOfMemory, match="number 0: MemoryError: 1 rows"):
        run_race(contestants, SMALL, True)
    stop(contestants)


def test_what_goes_wrong_is_said(field: Any) -> None:
    contestants = field("", "--fails-at 3")
    with pytest.raises(ContestantFailed, match="number 1: ValueError: wrong"):
        run_race(contestants, SMALL, True)
    stop(contestants)


def test_a_round_that_time_was_too_short_for_does_not_count(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "GRACE", 0.1)
    contestants = field("", f"--sleeps-at {race.WARM + race.STEPS + 1}", seconds=3)
    found = run_race(contestants, SMALL, True)
    stop(contestants)
    assert [one.turns for one in found.results] == [1, 1]


@pytest.mark.slow
def test_time_that_is_over_before_the_first_turn_ends_is_said(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "GRACE", 0.1)
    contestants = field("--sleeps-at 1", seconds=1.5)
    with pytest.raises(TooLate):
        run_race(contestants, SMALL, True)
    stop(contestants)


def test_alone_the_first_result_is_kept_when_time_is_over(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "GRACE", 0.1)
    contestants = field("", "--sleeps-at 1", seconds=3)
    found = run_race(contestants, SMALL, False)
    stop(contestants)
    assert [one.name for one in found.results] == ["number 0"]
    assert found.ratios == []


# contests


def races(tmp_path: Path, contests: list[Contest], missing: str, seconds: float = 100.0) -> list[dict[str, Any]]:
    who = Field("tests.benchmarks.gpu_contestant", lambda kind: missing, ["sdpa"], tmp_path / "log")
    return list(race_all(who, 80 * GIB, Deadline(seconds), contests))


def test_without_a_peer_ours_runs_alone_and_the_peer_is_named(tmp_path: Path) -> None:
    found = races(tmp_path, [Contest("one", SMALL), Contest("two", SMALL, no_peer="too large")], "peft")
    lines = [list(contest_lines("part", message, 1e12)) for message in found]
    assert [line.what for line in lines[0]] == ["one: entrenar", "one: torch + peft"]
    assert (lines[0][1].found, lines[0][1].verdict) == ("peft is not installed", "not measured")
    assert lines[1][1].found == "too large"
    assert "tok/s, MFU" in lines[0][0].found


def test_contests_without_time_or_memory_are_listed(tmp_path: Path) -> None:
    assert races(tmp_path, [Contest("one", SMALL)], "torch", seconds=1)[0]["not_measured"] == "time"
    huge = Task("llama70b", "full", rows=1)
    (found,) = races(tmp_path, [Contest("one", huge)], "torch")
    assert found["not_measured"] == "80 GiB of memory are too little"
    (line,) = contest_lines("part", found, None)
    assert line.verdict == "not measured"


def test_goals_are_held_against_the_fastest_peer() -> None:
    def result(name: str, seconds: float, peak: int, loss: float = 10.4) -> dict[str, Any]:
        rate, flops = SMALL.tokens / seconds, SMALL.flops / seconds
        figures = {"contestant": name, "seconds": seconds, "tokens_per_second": rate, "flops_per_second": flops}
        return figures | {
            "peak_bytes": peak * GIB,
            "first_loss": loss,
            "last_loss": loss,
            "turns": 3,
            "attention": name,
        }

    message = {
        "title": CONTESTS[0].title,
        "task": SMALL.message(),
        "results": [result("entrenar", 1.0, 20), result("sdpa", 2.0, 30), result("fa2", 1.4, 25, loss=7.0)],
        "ratios": [1.3, 1.4, 1.5],
        "fastest_peer": "fa2",
        "together": True,
        "absent_peer": "",
        "failed_peers": ["torch + peft, flash_attention_3: wrong"],
    }
    lines = {
        line.what.removeprefix(CONTESTS[0].title): line for line in contest_lines("part", message, SMALL.flops * 2)
    }
    assert lines[": MFU"].found == "50%"
    assert lines[": MFU"].verdict == "goal met"
    assert lines[": speed over the peer's"].found == "1.40 times (1.30 to 1.50)"
    assert lines[": speed over the peer's"].verdict == "goal missed"
    assert lines[": peak memory, ours and theirs"].found == "20.0 and 25.0 GiB"
    assert lines[": peak memory, ours and theirs"].verdict == "goal met"
    assert lines[": losses are far apart"].found == "10.400 and 7.000"


def test_a_contestant_that_fails_is_a_failure(tmp_path: Path) -> None:
    who = Field("benchmarks.gpu.no_such_module", lambda kind: "torch", [], tmp_path / "log")
    (message,) = race_all(who, 80 * GIB, Deadline(60), [Contest("one", SMALL)])
    (line,) = contest_lines("part", message, None)
    assert line.verdict == "FAILED"
    assert "ended with status 1" in line.found


def test_a_peer_that_fails_leaves_ours_alone_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "PEER_MODULE", "tests.benchmarks.gpu_contestant")
    who = Field("tests.benchmarks.gpu_contestant", lambda kind: "", ["x"], tmp_path / "log")
    (message,) = race_all(who, 80 * GIB, Deadline(100), [Contest("one", SMALL)])
    lines = list(contest_lines("part", message, None))
    assert [line.what for line in lines] == ["one: entrenar", "one: torch + peft"]
    assert lines[1].found == "torch + peft, x: tests.benchmarks.gpu_contestant ended with status 2"
    assert lines[1].verdict == "not measured"


def test_the_most_important_contests_come_first() -> None:
    assert [one.title for one in CONTESTS if one.has_speed_goal] == [one.title for one in CONTESTS[:4]]
    assert {one.task.kind for one in CONTESTS} == {"lora", "qlora", "full"}
    assert contestant.__doc__
    assert throughput.installed_attentions()[0] == "sdpa"
