"""The frame of `benchmarks.gpu_check`: its time, its processes, its table; what it measures is tested beside it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_check
from benchmarks.gpu import cases, compare, report, throughput
from benchmarks.gpu.budget import Budget, Deadline
from benchmarks.gpu.cases import Outcome, run_cases
from benchmarks.gpu.child import Child, ChildEnded, ChildTimedOut
from benchmarks.gpu.compare import Finding, different, relative_error, worse

CASES = "tests.benchmarks.gpu_cases"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# time


def test_parts_share_what_is_left_when_they_begin() -> None:
    clock = Clock()
    budget = Budget(100, {"a": 1, "b": 3, "c": 1}, clock)
    assert budget.begin("a") == pytest.approx(20)
    clock.now += 5  # sooner than it might
    assert budget.begin("b") == pytest.approx(95 * 3 / 4)
    clock.now += 93  # much later
    assert budget.begin("c") == pytest.approx(2)
    clock.now += 10
    assert budget.left == 0


def test_a_deadline_passes() -> None:
    clock = Clock()
    deadline = Deadline(3, clock)
    assert (deadline.left, deadline.is_past) == (3, False)
    clock.now += 4
    assert (deadline.left, deadline.is_past) == (-1, True)


# processes


def test_cases_that_fail_or_end_the_process_cost_only_themselves(tmp_path: Path) -> None:
    names = ["well", "fails", "ends", "spoils", "also well"]
    outcome = run_cases(CASES, names, 60, tmp_path / "log")
    assert [(one["case"], one["value"]) for one in outcome.found] == [
        ("well", 1),
        ("well", 2),
        ("fails", 3),
        ("also well", 1),
        ("also well", 2),
    ]
    assert outcome.failed == {
        "fails": "ValueError: wrong",
        "ends": f"{CASES} ended with status 9",
        "spoils": "ValueError: spoilt",
    }
    assert outcome.not_reached == []
    assert {"well", "fails", "also well"} <= outcome.seconds.keys()
    log = (tmp_path / "log").read_text()
    assert "libraries print what they like" in log
    assert "ValueError: wrong" in log


@pytest.mark.slow
def test_a_case_that_hangs_is_stopped_and_what_comes_after_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "GRACE", 0.2)
    outcome = run_cases(CASES, ["well", "hangs", "also well"], 3, tmp_path / "log")
    assert [one["case"] for one in outcome.found] == ["well", "well"]
    assert list(outcome.failed) == ["hangs"]
    assert "said nothing" in outcome.failed["hangs"]
    assert outcome.not_reached == ["also well"]


def test_cases_without_time_are_listed(tmp_path: Path) -> None:
    outcome = run_cases(CASES, ["well", "also well"], 0, tmp_path / "log")
    assert outcome.not_reached == ["well", "also well"]
    assert not outcome.found


def test_a_device_that_does_not_open_is_one_failure(tmp_path: Path) -> None:
    outcome = run_cases("benchmarks.gpu.no_such_module", ["a", "b"], 60, tmp_path / "log")
    assert outcome.failed == {cases.OPENING: "benchmarks.gpu.no_such_module ended with status 1"}
    assert outcome.not_reached == ["a", "b"]


def test_a_child_that_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    child = Child("tests.benchmarks.gpu_cases", ["--seconds", "60", "--cases", "hangs"], tmp_path / "log")
    assert child.receive(60) == {"begins": "hangs"}
    with pytest.raises(ChildTimedOut, match="said nothing for 0 s"):
        child.receive(0.01)
    child.kill()
    with pytest.raises(ChildEnded, match="status -9"):
        child.receive(60)
    with pytest.raises(ChildEnded):
        child.send({"x": 1})
        child.send({"x": 1})
    child.stop()


def test_without_a_gpu_it_says_so_in_one_line_and_ends_with_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path)]
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(gpu_check.__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    assert result.returncode == gpu_check.NO_GPU
    assert result.stdout == ""
    assert result.stderr.startswith("gpu_check: there is no GPU to check: ")
    assert result.stderr.count("\n") == 1


# errors


def test_errors_are_relative_to_the_largest_of_the_truth_or_its_terms() -> None:
    truth = np.array([1.0, -10.0, np.inf, np.nan])
    assert relative_error(truth + np.array([0, 0.5, 0, 0]), truth) == pytest.approx(0.05)
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.array([0.5]), np.array([0.0]), terms=10) == pytest.approx(0.05)
    assert np.isnan(relative_error(np.array([1.0, 2.0]), np.array([1.0, np.nan])))
    assert np.isnan(relative_error(np.array([1.0]), np.array([1.0, 2.0])))
    assert np.isnan(relative_error(np.array([np.nan]), np.array([1.0])))
    assert relative_error(np.empty(0), np.empty(0)) == 0


def test_equal_means_the_same_numbers() -> None:
    assert different(np.array([1.0, np.nan]), np.array([1.0, np.nan])) == 0
    assert different(np.array([1.0, 2.0]), np.array([1.0, 3.0])) == 0.5
    assert np.isnan(different(np.empty(1), np.empty(2)))


def test_the_worse_finding_is_the_one_nearer_to_its_tolerance() -> None:
    mild, bad = Finding("x", "float32", 1e-3, 1e-2), Finding("x", "float32", 1e-4, 1e-5, ("a fault",))
    broken = Finding("x", "float32", float("nan"), 1e-2)
    for one, other in ((mild, bad), (bad, mild)):
        both = worse(one, other)
        assert (both.error, both.tolerance, both.faults, both.tried) == (1e-4, 1e-5, ("a fault",), 2)
        assert not both.ok
    assert mild.ok
    assert np.isnan(worse(mild, broken).error)
    assert np.isnan(worse(broken, mild).error)
    assert not broken.ok
    wrong = Finding("x", "float32", 0.25, 0.0)
    assert worse(Finding("x", "float32", 0.0, 0.0), wrong).error == 0.25
    assert not wrong.ok


# results


def outcome_of(*findings: Finding) -> dict[str, Any]:
    return {
        "found": [{"case": "c", **finding.message()} for finding in findings],
        "failed": {"a case": "ValueError: [no] markup"},
        "not_reached": ["another"],
        "seconds": {},
    }


FINDINGS = Finding("good", "float32", 1e-7, 1e-5), Finding("bad", "bfloat16", 0.1, 0.0, ("tiles differ",))


def test_the_table_says_what_was_wrong_and_what_was_not_measured() -> None:
    results = {"parts": {"correctness": outcome_of(*FINDINGS)}}
    lines = list(gpu_check.lines_of(results))
    assert [(line.what, line.verdict) for line in lines] == [
        ("good", "ok"),
        ("bad", "FAILED"),
        ("a case", "FAILED"),
        ("another", "not measured"),
    ]
    assert gpu_check.failures(lines) == ["bad", "a case"]
    stream = io.StringIO()
    report.render("a title", lines, stream)
    rows = [" ".join(row.split()) for row in stream.getvalue().splitlines()]
    assert "good float32 1.0e-07 ≤ 1e-05 ok" in rows
    assert "bad bfloat16 1.0e-01 tiles differ equal FAILED" in rows
    assert "a case ValueError: [no] markup FAILED" in rows
    assert "another time not measured" in rows
    assert "\x1b" not in stream.getvalue()


def results_of_parts(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    """A machine with a GPU on which every part is over at once."""
    facts = {"gpu": "a card", "memory_bytes": 80 * 2**30}
    figure = {"case": "limits", "how": "bfloat16", "unit": "TFLOP/s", "against": "", "verdict": ""}
    found = {
        "benchmarks.gpu.correctness": [{"case": "c", **one.message()} for one in findings],
        "benchmarks.gpu.micro": [{**figure, "name": "matrix product", "value": 700.0}],
    }
    monkeypatch.setattr(gpu_check, "ask_machine", lambda log: facts)
    monkeypatch.setattr(
        gpu_check, "run_cases", lambda module, names, seconds, log: Outcome(found[module], not_reached=["one more"])
    )
    monkeypatch.setattr(throughput, "race_all", lambda *_: [{"title": "a race", "not_measured": "time"}])


def run_main(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(folder / "new" / "folder"), *arguments])
    status = gpu_check.main()
    return status, json.loads((folder / "new" / "folder" / "gpu_check.json").read_text())


def test_a_whole_run_writes_a_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results_of_parts(monkeypatch, FINDINGS[0])
    status, results = run_main(monkeypatch, tmp_path)
    table = capsys.readouterr().out
    assert status == 0
    assert table == (tmp_path / "new" / "folder" / "gpu_check.txt").read_text()
    assert table.startswith("gpu_check on a card, ")
    assert all(title in table for title in gpu_check.TITLES.values())
    assert list(results["parts"]) == ["correctness", "micro", "throughput"]
    assert results["parts"]["throughput"]["matrix_rate"] == 700e12
    assert results["failures"] == []
    assert results["not_measured"] == ["one more", "one more", "a race"]
    assert results["machine"]["gpu"] == "a card"


def test_a_wrong_result_is_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results_of_parts(monkeypatch, *FINDINGS)
    status, results = run_main(monkeypatch, tmp_path, "--part", "correctness")
    assert status == 1
    assert results["failures"] == ["bad"]
    assert list(results["parts"]) == ["correctness"]


def test_races_alone_measure_the_large_product_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results_of_parts(monkeypatch)
    _, results = run_main(monkeypatch, tmp_path, "--part", "throughput")
    assert results["parts"]["throughput"]["matrix_rate"] == 700e12
    results_of_parts(monkeypatch)
    monkeypatch.setattr(gpu_check, "run_cases", lambda *_: Outcome())
    assert run_main(monkeypatch, tmp_path, "--part", "throughput")[1]["parts"]["throughput"]["matrix_rate"] is None


def test_json_has_null_where_there_is_no_number(tmp_path: Path) -> None:
    report.write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5], "b": {"c": (float("inf"), None, True, "é")}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5], "b": {"c": [None, None, True, "é"]}}


def test_rounding_is_that_of_the_element_type() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, 1 / 3])
    assert compare.rounded(values, "bfloat16").tolist() == [1.0, 1.0, 1.015625, 0.333984375]
    assert compare.rounded(values, "float32")[3] == np.float32(1 / 3)
