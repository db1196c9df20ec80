"""What a data set holds: its columns with what they were taken for and why, and the task that would be trained."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from entrenar_core.data.broken import content_of
from entrenar_core.data.cells import cell_value
from entrenar_core.data.column_types import ColumnType, infer_types
from entrenar_core.data.formats.kinds import format_of
from entrenar_core.data.opening import SAMPLE_ROWS
from entrenar_core.data.source import DataSource
from entrenar_core.data.tasks import TaskRequest, choose_task
from entrenar_core.errors import DataError
from entrenar_core.stages.data_facts import ColumnFacts, DataFacts

EXAMPLES = 3
"""Values shown of each column."""

LONGEST_VALUE = 400
"""Characters kept of a value."""


def is_data(path: str) -> bool:
    """Whether `path` means data, readable or not: by the names of files, or by what a file without a name holds."""
    place = Path(path)
    if place.is_dir():
        return any(format_of(file) is not None for file in place.rglob("*") if not file.name.startswith("."))
    if not place.is_file():
        return glob.has_magic(path) and not place.exists()
    if format_of(place) is not None:
        return True
    try:
        content = content_of(place)
    except OSError:
        return False
    return content is not None and content.format is not None


def inspect_data(path: str) -> DataFacts:
    """Open data and infer what they are for, as `entrenar train` would without any key in the YAML.

    Raises:
        DataError: they cannot be read.
    """
    source = DataSource.open(path)
    sample = source.sample(SAMPLE_ROWS)
    types = infer_types(sample)
    task, roles, undecided = _task(types, path)
    first = sample.slice(0, EXAMPLES)
    return DataFacts(
        kind="data",
        path=path,
        format=str(source.format),
        files=tuple(str(file) for file in source.files),
        n_bytes=source.n_bytes,
        rows=source.n_rows,
        looked_at=sample.num_rows,
        task=task,
        undecided=undecided,
        columns=tuple(
            _column(one, roles.get(name), [cell_value(cell) for cell in first[name]]) for name, one in types.items()
        ),
    )


def _task(types: Mapping[str, ColumnType], path: str) -> tuple[str | None, dict[str, str], str | None]:
    """The task, the role of each column that it uses, and why there is no task."""
    try:
        chosen = choose_task(types, TaskRequest(), where=Path(path).name)
    except DataError as error:
        return None, {}, " ".join((error.message if error.hint is None else f"{error.message}; {error.hint}").split())
    return str(chosen.task), {name: role for role, name in chosen.columns.items()}, None


def _column(found: ColumnType, role: str | None, values: Sequence[object]) -> ColumnFacts:
    return ColumnFacts(
        name=found.name,
        kind=str(found.kind),
        reason=found.reason,
        stored_as=found.arrow_type,
        missing=found.n_nulls,
        role=role,
        examples=tuple(str(value)[:LONGEST_VALUE] for value in values if value is not None),
    )
