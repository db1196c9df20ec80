"""The facts about a data set that `inspect_data` finds; a module of their own, for pyarrow is slow to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnFacts:
    """A column. `kind`: what it was taken for, with the `reason`; `role`: what it would be used as, or None."""

    name: str
    kind: str
    reason: str
    stored_as: str
    missing: int
    role: str | None
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DataFacts:
    """A data set. `task` is None where the columns do not decide; `undecided` then says why and what settles it.

    Kinds come from `looked_at` rows.
    """

    kind: str
    path: str
    format: str
    files: tuple[str, ...]
    n_bytes: int
    rows: int
    looked_at: int
    task: str | None
    undecided: str | None
    columns: tuple[ColumnFacts, ...]
