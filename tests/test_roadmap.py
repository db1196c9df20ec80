"""roadmap.yaml holds the forty planned tickets and does not contradict itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PHASE_HOURS = {
    "autograd": 200,
    "optimizers": 120,
    "LoRA": 144,
    "quantization": 136,
    "merging": 96,
    "declarative config": 64,
    "distillation": 64,
}


def roadmap_status(project_root: Path, roadmap: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project_root / ".ci" / "roadmap_status.py"), str(roadmap)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_phases_hold_the_planned_tickets_and_hours(project_root: Path) -> None:
    roadmap = yaml.safe_load((project_root / "roadmap.yaml").read_text(encoding="utf-8"))
    planned = roadmap["phases"][: len(PHASE_HOURS)]
    assert {phase["name"]: phase["estimated_hours"] for phase in planned} == PHASE_HOURS
    ids = [ticket["id"] for phase in roadmap["phases"] for ticket in phase["tickets"]]
    assert ids[:40] == [f"ENT-{number:03d}" for number in range(1, 41)]


def test_the_summary_counts_the_tickets_of_the_roadmap(project_root: Path) -> None:
    result = roadmap_status(project_root, project_root / "roadmap.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("all ")


SMALL = """
project: small
totals: {tickets: 2, estimated_hours: 24, actual_hours: 0}
phases:
  - id: 1
    name: only
    estimated_hours: 24
    tickets:
      - {id: ENT-001, name: one, estimated_hours: 16, actual_hours: 0, status: pending, notes: ""}
      - {id: ENT-002, name: two, estimated_hours: 8, actual_hours: 0, status: complete, notes: ""}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("status: pending", "status: almost", "ENT-001: status 'almost' is none of complete, in-progress, pending"),
        ("id: ENT-002", "id: ENT-001", "ENT-001: used 2 times"),
        ("notes:", "note:", "ENT-001: the keys must be"),
        ("estimated_hours: 16", "estimated_hours: 17", "phase 1: estimated_hours is 24, the tickets add up to 25"),
        ("tickets: 2", "tickets: 3", "totals: tickets is 3, there are 2"),
    ],
)
def test_a_contradiction_is_named(project_root: Path, tmp_path: Path, right: str, wrong: str, message: str) -> None:
    roadmap = tmp_path / "roadmap.yaml"
    roadmap.write_text(SMALL.replace(right, wrong, 1), encoding="utf-8")
    result = roadmap_status(project_root, roadmap)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_roadmap_without_contradiction_is_summed_up(project_root: Path, tmp_path: Path) -> None:
    roadmap = tmp_path / "roadmap.yaml"
    roadmap.write_text(SMALL, encoding="utf-8")
    result = roadmap_status(project_root, roadmap)
    assert result.stdout.splitlines()[-1].split() == ["all", "1", "0", "1", "0", "/", "24"]
