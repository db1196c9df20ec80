"""Names of columns that cannot go together: roles that no task has, that the task lacks, or that are named twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrenar_core.config.base import Conflict
from entrenar_core.config.roles import ROLE_NAMES, SHORT_ROLES, TASK_ROLES, listed, tasks_with
from entrenar_core.config.suggest import near_word

RoleKeys = Mapping[str, str]
"""Role -> the key that names it: ``columns.prompt``, or ``prompt`` in the short form."""


def role_keys(given: Mapping[str, Any]) -> RoleKeys:
    """The roles that a section or a source names."""
    columns = given.get("columns")
    named = {role: f"columns.{role}" for role in columns} if isinstance(columns, Mapping) else {}
    return {**named, **{role: role for role in SHORT_ROLES if role in given}}


def set_task(given: Mapping[str, Any]) -> str | None:
    """The task that a section or a source sets; None if there is none, or a wrong one."""
    task = given.get("task")
    name = task.lower() if isinstance(task, str) else None
    return name if name in TASK_ROLES else None


def possible_tasks(given: Mapping[str, Any]) -> Sequence[str]:
    """The task that is set, or those that have the named columns; none where nothing is said."""
    task, keys = set_task(given), role_keys(given)
    return [task] if task is not None else tasks_with(keys) if keys else []


def column_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """What is wrong with the names of columns in a section or a source."""
    keys = role_keys(given)
    if "text" in given and ("prompt" in given or "completion" in given):
        for key in ("prompt", "completion"):
            if key in given:
                yield Conflict(key, "cannot go together with data.text", "keep text, or prompt and completion")
        return
    yield from _named_twice(given)
    if keys.keys() <= set(ROLE_NAMES):
        yield from _half_a_pair(keys)
    yield from _unknown_roles(keys)
    task, known = set_task(given), {role: key for role, key in keys.items() if role in ROLE_NAMES}
    yield from _roles_of_no_task(known) if task is None else _roles_of_other_tasks(known, task)


def _named_twice(given: Mapping[str, Any]) -> Iterator[Conflict]:
    columns = given.get("columns")
    for role in SHORT_ROLES:
        if role in given and isinstance(columns, Mapping) and role in columns:
            yield Conflict(f"columns.{role}", f"names the same column as data.{role}", "keep one of them")


def _half_a_pair(keys: RoleKeys) -> Iterator[Conflict]:
    for one, other in (("prompt", "completion"), ("completion", "prompt")):
        if one in keys and other not in keys and "text" not in keys:
            yield Conflict(keys[one], f"needs {other} too", f"name both columns, or use text instead of {one}")


def _unknown_roles(keys: RoleKeys) -> Iterator[Conflict]:
    for role, key in keys.items():
        if role not in ROLE_NAMES:
            near = near_word(role, ROLE_NAMES)
            meant = f"did you mean {near}? " if near else ""
            yield Conflict(key, "is not a role that a column can have", f"{meant}the roles are {', '.join(ROLE_NAMES)}")


def _roles_of_other_tasks(keys: RoleKeys, task: str) -> Iterator[Conflict]:
    has = TASK_ROLES[task].all
    for role, key in keys.items():
        if role not in has:
            message = f"is not a column of the task {task}, which has {listed(has)}"
            yield Conflict(key, message, f"remove it, or set task to {' or '.join(tasks_with([role]))}")


def _roles_of_no_task(keys: RoleKeys) -> Iterator[Conflict]:
    """The first role that no task has together with those before it."""
    before: list[str] = []
    for role, key in keys.items():
        if not tasks_with([*before, role]):
            other = next((name for name in before if not tasks_with([name, role])), listed(before))
            message = f"no task has the columns {other} and {role} together"
            yield Conflict(key, message, f"{role} belongs to {listed(tasks_with([role]))}")
            return
        before.append(role)
