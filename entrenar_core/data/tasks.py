"""Decides what data are for and which columns are read: what the YAML names, else well-known names, else the types.

A guess is taken only when it is the only one. A tie is an error that shows the candidates and the lines of YAML that
settle it, and a well-known column of the wrong type is an error too, never a reason to train on something else.
docs/inference.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from entrenar_core.config.roles import tasks_with
from entrenar_core.data.column_types import ColumnType
from entrenar_core.data.task_candidates import by_name, by_type, for_task, heads_for, readable
from entrenar_core.data.task_columns import TARGET_ROLES, Task, TaskColumns, TaskRequest
from entrenar_core.data.task_errors import TaskErrors
from entrenar_core.data.task_fit import first_misfit
from entrenar_core.data.task_unread import (
    answer_of,
    has_preferences,
    is_structured,
    notes_of,
    options_of,
    pointers_to_options,
    unread_misfit,
    ways_to_train_on_chosen,
)

__all__ = ["Task", "TaskColumns", "TaskRequest", "choose_task"]


def choose_task(columns: Mapping[str, ColumnType], request: TaskRequest, *, where: str) -> TaskColumns:
    """Choose the task and the columns of a source; `where` is its name for errors.

    Raises:
        DataError: a named column is missing or of the wrong kind, nothing fits, or more than one choice does.
    """
    errors = TaskErrors(columns, where)
    task = _requested_task(request, errors)
    if task is not None and set(task.roles.required) <= set(request.columns):
        return _named(task, request, errors)
    if not request.auto_infer_types:
        raise errors.not_named(task, request.columns)
    if task is None:
        return _inferred(errors)
    if request.columns:
        return _completed(task, request, errors)
    return _only(for_task(columns, task), errors, is_named=True, task=task)


def _requested_task(request: TaskRequest, errors: TaskErrors) -> Task | None:
    """The task that is set, or that the named columns belong to."""
    roles = set(request.columns)
    if request.task is None:
        return _task_with(roles, errors) if roles else None
    if request.task not in set(Task):
        raise errors.unknown_task(request.task)
    task = Task(request.task)
    for role in request.columns:
        if role not in task.roles.all:
            raise errors.foreign_role(task, role)
    return task


def _task_with(roles: set[str], errors: TaskErrors) -> Task:
    """The task that these roles make up, else the first that has them all."""
    complete = [task for task in Task if set(task.roles.required) <= roles <= set(task.roles.all)]
    fitting = complete or [Task(name) for name in tasks_with(roles)]
    if not fitting:
        raise errors.no_task_has(sorted(roles))
    return fitting[0]


def _named(task: Task, request: TaskRequest, errors: TaskErrors) -> TaskColumns:
    """The columns that the YAML names, checked."""
    errors.check_names(request.columns)
    ordered = {role: request.columns[role] for role in task.roles.all if role in request.columns}
    chosen = TaskColumns(task, ordered, inferred=False)
    found = first_misfit(chosen, errors.columns, is_named=True)
    if found is not None:
        raise errors.misfit(found, is_named=True)
    return chosen


def _completed(task: Task, request: TaskRequest, errors: TaskErrors) -> TaskColumns:
    """A text or what is predicted from it, found beside the other one, which is named."""
    errors.check_names(request.columns)
    if task not in TARGET_ROLES:
        raise errors.half_named(task, request.columns)
    text, target = request.columns.get("text"), request.columns.get(TARGET_ROLES[task])
    if target is not None:
        texts = readable(errors.columns, besides=target)
        found = [TaskColumns(task, {"text": name, TARGET_ROLES[task]: target}) for name in texts]
    else:
        found = heads_for(errors.columns, task, [text] if text is not None else [])
    return _only(found, errors, is_named=True, task=task)


def _inferred(errors: TaskErrors) -> TaskColumns:
    """The only choice, unless the data mean something that no task can learn."""
    columns = errors.columns
    named = by_name(columns)
    found = named or by_type(columns)
    pointers = pointers_to_options(found, columns)
    kept = [one for one in found if one not in pointers]
    is_said = bool(named) and any(is_structured(one, columns) for one in kept)
    if pointers and not is_said:
        raise errors.multiple_choice(pointers[0], answer_of(pointers[0]), options_of(columns))
    if has_preferences(columns) and not is_said:
        raise errors.preferences(ways_to_train_on_chosen(columns))
    return _only(kept, errors, is_named=False)


def _only(
    candidates: Sequence[TaskColumns], errors: TaskErrors, *, is_named: bool, task: Task | None = None
) -> TaskColumns:
    """The only candidate whose columns can play their roles; `is_named`: the YAML names the task."""
    usable = [one for one in candidates if first_misfit(one, errors.columns, is_named=is_named) is None]
    unread = unread_misfit(candidates, usable, errors.columns)
    if unread is not None:
        raise errors.misfit(unread, is_named=False)
    if len(usable) > 1:
        raise errors.tie(usable)
    if usable:
        return replace(usable[0], inferred=True, notes=notes_of(usable[0], errors.columns))
    misfits = [first_misfit(one, errors.columns, is_named=is_named) for one in candidates]
    for found in misfits:
        if found is not None:
            raise errors.misfit(found, is_named=False)
    raise errors.nothing_fits(task)
