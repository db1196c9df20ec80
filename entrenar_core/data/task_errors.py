"""What is said when a task or its columns cannot be chosen: what was found, and the lines of YAML that settle it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from entrenar_core.config.roles import ROLE_NAMES, SHORT_ROLES, listed, tasks_with
from entrenar_core.data.column_types import ColumnType, Kind
from entrenar_core.data.task_columns import Task, TaskColumns, yaml_name
from entrenar_core.data.task_fit import Misfit, first_misfit
from entrenar_core.errors import DataError

MAX_LISTED = 20
"""Columns that an error shows."""

MAX_CANDIDATES = 8
"""Choices that an error shows."""


class TaskError(DataError):
    """What data are for cannot be told. `candidates`: the choices that fit, where there are several."""

    def __init__(self, message: str, *, where: str, hint: str, candidates: Sequence[TaskColumns] = ()) -> None:
        super().__init__(message, where=where, hint=hint)
        self.candidates = tuple(candidates)


@dataclass(frozen=True)
class TaskErrors:
    """Makes the errors of one source: its columns, and its name."""

    columns: Mapping[str, ColumnType]
    where: str

    def tie(self, candidates: Sequence[TaskColumns]) -> TaskError:
        """More than one choice fits."""
        shown = candidates[:MAX_CANDIDATES]
        more = f" and {len(candidates) - len(shown)} more" if len(candidates) > len(shown) else ""
        return self._error(
            f"several choices of columns fit: {'; '.join(map(str, shown))}{more}",
            f"say which one, with one of these lines under data:{yaml_lines(shown)}",
            candidates=shown,
        )

    def preferences(self, candidates: Sequence[TaskColumns]) -> TaskError:
        """Answers that were chosen beside those that were rejected."""
        lines = yaml_lines(candidates)
        return self._error(
            "the columns 'chosen' and 'rejected' are preference pairs, which are not trained in this release",
            f"to train on the chosen answers alone, say so under data:{lines}"
            if lines
            else "write the chosen answers into a column of strings or of messages, and name it under data.columns",
            candidates=candidates,
        )

    def multiple_choice(self, found: TaskColumns, answer: str, options: Sequence[str]) -> TaskError:
        """The answer is the letter or the number of an option."""
        fits = first_misfit(found, self.columns) is None
        instead = f"\n  or, to learn it without the options all the same, say so under data:{yaml_lines([found])}"
        return self._error(
            f"column {answer!r} points to one of the options in {options[0]!r}, which no task reads",
            "write each question with its options into one column and the answer into another, "
            f"and name them with columns: {{prompt: ..., completion: ...}}{instead if fits else ''}",
        )

    def misfit(self, found: Misfit, *, is_named: bool) -> TaskError:
        """A column cannot play its role; where nobody named it, the way out is to name others."""
        if is_named:
            return self._error(f"{role_key(found.role)}: {found.message}", found.remedy)
        texts = [name for name, column in self.columns.items() if column.kind is Kind.TEXT and not column.is_id]
        others = [TaskColumns(Task.TEXT, {"text": name}) for name in texts if name != found.column.name]
        instead = (
            f"\n  or train on other columns, with a line under data such as{yaml_lines(others[:1])}" if others else ""
        )
        return self._error(found.message, f"{found.remedy}{instead}")

    def nothing_fits(self, task: Task | None) -> TaskError:
        """Neither names nor types tell what to do."""
        if task is not None:
            roles = ", ".join(f"{role}: ..." for role in task.roles.required)
            return self._error(
                f"no columns for the task {task}, which needs {listed(task.roles.required)}",
                f"name them under data, with columns: {{{roles}}}; {self.shown()}",
            )
        strings = [TaskColumns(Task.TEXT, {"text": one.name}) for one in self.columns.values() if one.is_text_like]
        hint = f"to train on short strings all the same, say so under data:{yaml_lines(strings)}" if strings else None
        return self._error(
            f"there is no text column; {self.shown()}", hint or "a model learns from text: add a column of strings"
        )

    def not_named(self, task: Task | None, given: Mapping[str, str]) -> TaskError:
        """Inference is off."""
        roles = task.roles.required if task is not None else ("text",)
        line = ", ".join(f"{role}: {yaml_name(given[role]) if role in given else '...'}" for role in roles)
        missing = listed([role_key(role) for role in roles if role not in given])
        what = f"{role_key(next(iter(given)))} is set, but {missing} is not," if given else "no column is named"
        return self._error(
            f"{what} and inference is off",
            f"set data.columns: {{{line}}}, or data.auto_infer_types: true; {self.shown()}",
        )

    def half_named(self, task: Task, given: Mapping[str, str]) -> TaskError:
        """One of the columns that go together is missing."""
        there = next(role for role in task.roles.all if role in given)
        missing = next(role for role in task.roles.required if role not in given)
        hint = "set both" if there != "prompt" else "set both, or data.text"
        return self._error(f"{role_key(there)} is set, but {role_key(missing)} is not", f"{hint}; {self.shown()}")

    def unknown_task(self, name: str) -> TaskError:
        near = get_close_matches(name.lower(), list(Task), n=1, cutoff=0.5)
        meant = f"did you mean {near[0]}? " if near else ""
        return self._error(f"data.task: there is no task {name!r}", f"{meant}the tasks are {listed(list(Task))}")

    def foreign_role(self, task: Task, role: str) -> TaskError:
        belongs = tasks_with([role])
        known = f"it belongs to {listed(belongs)}" if belongs else f"the roles are {', '.join(ROLE_NAMES)}"
        return self._error(
            f"{role_key(role)} is not a column of the task {task}, which has {listed(task.roles.all)}", known
        )

    def no_task_has(self, roles: Sequence[str]) -> TaskError:
        unknown = [role for role in roles if role not in ROLE_NAMES]
        if unknown:
            return self._error(
                f"{role_key(unknown[0])} is not a role that a column can have", f"the roles are {', '.join(ROLE_NAMES)}"
            )
        keys = listed([role_key(role) for role in roles])
        return self._error(f"no task has {keys} together: set either one or the other", "see data.task for the tasks")

    def check_names(self, given: Mapping[str, str]) -> None:
        """Every named column is there, and none is named twice."""
        for role, name in given.items():
            if name not in self.columns:
                nearest = self._nearest(name)
                meant = f"did you mean {nearest!r}? " if nearest else ""
                raise self._error(f"{role_key(role)}: there is no column {name!r}", f"{meant}{self.shown()}")
            twin = next(other for other, other_name in given.items() if other_name == name)
            if twin != role:
                raise self._error(
                    f"{role_key(twin)} and {role_key(role)} are the same column {name!r}", "name two different columns"
                )

    def shown(self) -> str:
        """The columns with their kinds."""
        words = [f"{column.name} ({column.kind})" for column in self.columns.values()]
        more = f" and {len(words) - MAX_LISTED} more" if len(words) > MAX_LISTED else ""
        return f"columns: {', '.join(words[:MAX_LISTED])}{more}"

    def _nearest(self, name: str) -> str | None:
        by_lower = {found.lower(): found for found in self.columns}
        close = get_close_matches(name.lower(), list(by_lower), n=1)
        return by_lower[close[0]] if close else None

    def _error(self, message: str, hint: str, candidates: Sequence[TaskColumns] = ()) -> TaskError:
        return TaskError(message, where=self.where, hint=hint, candidates=candidates)


def role_key(role: str) -> str:
    """The key that names the column of a role."""
    return f"data.{role}" if role in SHORT_ROLES else f"data.columns.{role}"


def yaml_lines(candidates: Iterable[TaskColumns]) -> str:
    """A line of YAML for each choice, to be copied; the roles tell the task."""
    return "".join(f"\n    columns: {{{_pairs(one.columns)}}}" for one in candidates)


def _pairs(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{role}: {yaml_name(name)}" for role, name in columns.items())
