"""Print what roadmap.yaml says, one line a phase, and fail where it contradicts itself.

Usage: ``python .ci/roadmap_status.py [roadmap.yaml]``. Exit code 1 when ids repeat, a status is unknown or the hours do
not add up.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

STATUSES = ("complete", "in-progress", "pending")
Entry = dict[str, Any]
TICKET_KEYS = {"id", "name", "estimated_hours", "actual_hours", "status", "notes"}


def contradictions(roadmap: Entry) -> list[str]:
    """Every reason why the roadmap cannot be right, in the order of the file; empty when there is none."""
    found: list[str] = []
    tickets = [ticket for phase in roadmap["phases"] for ticket in phase["tickets"]]
    for ticket in tickets:
        if set(ticket) != TICKET_KEYS:
            found.append(f"{ticket.get('id', ticket)}: the keys must be {', '.join(sorted(TICKET_KEYS))}")
        if ticket.get("status") not in STATUSES:
            found.append(f"{ticket.get('id')}: status {ticket.get('status')!r} is none of {', '.join(STATUSES)}")
    ids = Counter(ticket["id"] for ticket in tickets)
    found += [f"{ticket_id}: used {count} times" for ticket_id, count in ids.items() if count > 1]
    for phase in roadmap["phases"]:
        found += _sum_mismatch(f"phase {phase['id']}", phase, phase["tickets"], ("estimated_hours",))
    found += _sum_mismatch("totals", roadmap["totals"], tickets, ("estimated_hours", "actual_hours"))
    if roadmap["totals"]["tickets"] != len(tickets):
        found.append(f"totals: tickets is {roadmap['totals']['tickets']}, there are {len(tickets)}")
    return found


def _sum_mismatch(where: str, stated: Entry, tickets: list[Entry], keys: tuple[str, ...]) -> list[str]:
    sums = {key: round(sum(ticket[key] for ticket in tickets), 3) for key in keys}
    wrong = [key for key in keys if stated[key] != sums[key]]
    return [f"{where}: {key} is {stated[key]}, the tickets add up to {sums[key]}" for key in wrong]


def summary(roadmap: Entry) -> str:
    """A table with one row a phase and a row of totals; hours are actual / estimated."""
    rows = [_row(phase["name"], phase["tickets"]) for phase in roadmap["phases"]]
    rows.append(_row("all", [ticket for phase in roadmap["phases"] for ticket in phase["tickets"]]))
    head = f"{'phase':<20}{'complete':>10}{'in progress':>13}{'pending':>9}{'hours':>12}"
    return "\n".join([f"{roadmap['project']} roadmap", head, *rows])


def _row(name: str, tickets: list[Entry]) -> str:
    count = Counter(ticket["status"] for ticket in tickets)
    hours = f"{sum(t['actual_hours'] for t in tickets):g} / {sum(t['estimated_hours'] for t in tickets):g}"
    return f"{name:<20}{count['complete']:>10}{count['in-progress']:>13}{count['pending']:>9}{hours:>12}"


def main(path: Path) -> int:
    """Print the summary; return the exit code."""
    roadmap = yaml.safe_load(path.read_text(encoding="utf-8"))
    wrong = contradictions(roadmap)
    for line in wrong:
        print(f"{path}: {line}", file=sys.stderr)
    if not wrong:
        print(summary(roadmap))
    return 1 if wrong else 0


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "roadmap.yaml"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
