"""Keys of the `data` section that cannot go together: columns, roles and tasks, sources, streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrenar_core.config.base import Conflict, is_number
from entrenar_core.config.roles import LANGUAGE_TASKS, ROLE_NAMES, TASK_ROLES, tasks_with
from entrenar_core.config.suggest import near_word

_SHORT = ("text", "prompt", "completion")
_NEUTRAL: Mapping[str, object] = {"separator": "\n", "train_on_prompt": False, "train_turns": "all"}
"""Values with which a key says nothing."""

_KEY_TASKS: Mapping[str, tuple[str, ...]] = {
    "separator": ("prompt_completion",),
    "train_on_prompt": ("prompt_completion", "instruction"),
    "train_turns": ("chat",),
    "chat_template": ("chat", "instruction"),
}
"""Keys that have an effect on some tasks only."""


def source_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """Conflicts inside one entry of `train` or `val`."""
    columns = given.get("columns")
    if isinstance(columns, Mapping):
        yield from _role_conflicts(columns, _task_name(given), prefix="columns.")


def data_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """Conflicts of the section. `given` holds raw values that may be wrong in other ways."""
    if "val" in given and "val_fraction" in given:
        yield Conflict("val_fraction", "cannot go together with data.val", "keep one of them")
    yield from _column_conflicts(given)
    yield from _task_conflicts(given)
    yield from _source_list_conflicts(given)
    yield from _reading_conflicts(given)


def named_roles(given: Mapping[str, Any]) -> dict[str, str]:
    """Role -> the key that names it (``columns.prompt`` or ``prompt``)."""
    columns = given.get("columns")
    named = {role: f"columns.{role}" for role in columns} if isinstance(columns, Mapping) else {}
    return {**named, **{role: role for role in _SHORT if role in given}}


def effective_task(given: Mapping[str, Any]) -> str | None:
    """The task that is set, or the only one that has the named columns; None where the data must decide."""
    task = _task_name(given)
    if task is not None:
        return task
    roles = named_roles(given)
    fitting = tasks_with(roles) if roles else []
    return fitting[0] if len(fitting) == 1 else None


def _task_name(given: Mapping[str, Any]) -> str | None:
    task = given.get("task")
    name = task.lower() if isinstance(task, str) else None
    return name if name in TASK_ROLES else None


def _column_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    columns = given.get("columns")
    columns = columns if isinstance(columns, Mapping) else {}
    for role in _SHORT:
        if role in given and role in columns:
            yield Conflict(f"columns.{role}", f"names the same column as data.{role}", "keep one of them")
    roles = named_roles(given)
    for one, other in (("prompt", "completion"), ("completion", "prompt")):
        if one in roles and other not in roles and "text" not in roles:
            yield Conflict(
                roles[one], f"needs data.{other} too", f"name both columns, or use data.text instead of {one}"
            )
    if "text" in given and ("prompt" in given or "completion" in given):
        for key in ("prompt", "completion"):
            if key in given:
                yield Conflict(key, "cannot go together with data.text", "keep text, or prompt and completion")
    else:
        yield from _role_conflicts({role: roles[role] for role in roles}, _task_name(given), keys=roles)
    if given.get("auto_infer_types") is False:
        yield from _nothing_named(given, roles)


def _role_conflicts(
    roles: Mapping[str, Any], task: str | None, *, prefix: str = "", keys: Mapping[str, str] | None = None
) -> Iterator[Conflict]:
    """Roles that do not exist, that the task does not have, or that no task has together."""
    unknown = [role for role in roles if role not in ROLE_NAMES]
    for role in unknown:
        near = near_word(str(role), ROLE_NAMES)
        hint = f"did you mean {near}?" if near else f"the roles are {', '.join(ROLE_NAMES)}"
        yield Conflict(_key(role, prefix, keys), "is not a role that a column can have", hint)
    known = [role for role in roles if role in ROLE_NAMES]
    if task is not None:
        has = TASK_ROLES[task].all
        for role in known:
            if role not in has:
                hint = f"remove it, or set task to {' or '.join(tasks_with([role]))}"
                message = f"is not a column of the task {task}, which has {_listed(has)}"
                yield Conflict(_key(role, prefix, keys), message, hint)
    elif known and not tasks_with(known):
        first = next(role for end, role in enumerate(known) if not tasks_with(known[: end + 1]))
        others = [role for role in known if role != first and not tasks_with([role, first])]
        yield Conflict(
            _key(first, prefix, keys),
            f"no task has the columns {_listed(others[:1] or known)} and {first} together",
            f"{first} belongs to {' and '.join(tasks_with([first]))}",
        )


def _key(role: str, prefix: str, keys: Mapping[str, str] | None) -> str:
    return f"{prefix}{role}" if keys is None else keys[role]


def _nothing_named(given: Mapping[str, Any], roles: Mapping[str, str]) -> Iterator[Conflict]:
    """With inference off, every column that the task needs must be named."""
    if not roles:
        if not _every_source_names_columns(given):
            hint = "set data.text, or prompt and completion, or columns"
            yield Conflict("auto_infer_types", "is off, and no columns are named", hint)
        return
    task = effective_task(given)
    missing = [role for role in TASK_ROLES[task].required if role not in roles] if task else []
    if missing and not {"prompt", "completion"} & set(missing):
        yield Conflict("auto_infer_types", f"is off, and {task} needs {_listed(missing)} too", "name it in columns")


def _every_source_names_columns(given: Mapping[str, Any]) -> bool:
    sources = [entry for key in ("train", "val") if key in given for entry in entries(given[key])]
    return bool(sources) and all("columns" in entry for entry in sources)


def _task_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """Keys that have no effect on the task, where it is known."""
    task = effective_task(given)
    if task is None or any("task" in entry or "columns" in entry for entry in entries(given.get("train"))):
        return
    for key, tasks in _KEY_TASKS.items():
        if task not in tasks and given.get(key, _NEUTRAL.get(key)) != _NEUTRAL.get(key):
            yield Conflict(key, f"has no effect on {_data_of(task)}; it is for {_listed(tasks)}", "remove it")
    if task == "chat" and given.get("chat_template") == "none":
        yield Conflict("chat_template", "a chat needs a template", "name one, such as chatml, or remove the key")
    if task not in LANGUAGE_TASKS and str(given.get("overlong")).lower() == "split":
        yield Conflict("overlong", f"one example of {task} cannot become two", "set it to truncate or drop")


def _data_of(task: str) -> str:
    return "plain text" if task == "text" else f"{task} data"


def _source_list_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    for key in ("train", "val"):
        yield from _repeated_paths(key, given.get(key))
    for index, entry in enumerate(entries(given.get("val"))):
        if is_number(entry.get("weight")) and entry["weight"] != 1:
            yield Conflict(_entry_key(given["val"], "val", index, "weight"), "has no effect on validation", "remove it")
    tasks = [(index, name) for index, entry in enumerate(entries(given.get("train"))) if (name := _task_name(entry))]
    families = {_family(name): index for index, name in reversed(tasks)}
    if len(families) > 1:
        first, second = sorted(families.values())[:2]
        names = dict(tasks)
        yield Conflict(
            _entry_key(given["train"], "train", second, "task"),
            f"{names[second]} cannot be trained together with {names[first]}: they need different heads",
            "train them in two runs",
        )


def _family(task: str) -> str:
    return "language" if task in LANGUAGE_TASKS else task


def _repeated_paths(key: str, value: object) -> Iterator[Conflict]:
    seen: list[Mapping[str, Any]] = []
    for index, entry in enumerate(entries(value)):
        same = {name: entry.get(name) for name in ("path", "task", "columns")}
        if same in seen:
            hint = "remove it, or use weight to visit its examples more often"
            yield Conflict(_entry_key(value, key, index, "path"), "is listed twice", hint)
        seen.append(same)


def entries(value: object) -> Sequence[Mapping[str, Any]]:
    """The sources of a raw or checked `train` or `val`; what is neither path nor mapping counts as empty."""
    listed = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    return [_entry(item) for item in listed]


def _entry(item: object) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"path": item}
    if isinstance(item, Mapping):
        return {key: value for key, value in item.items() if value is not None}
    given = getattr(item, "model_fields_set", ())
    return {key: getattr(item, key) for key in given if getattr(item, key) is not None}


def _entry_key(value: object, key: str, index: int, name: str) -> str:
    """The dotted key of a value of one source: ``train.1.weight``, or ``train.1`` for a plain path."""
    if not isinstance(value, (list, tuple)):
        return f"{key}.{name}"
    return f"{key}.{index}" if isinstance(value[index], str) else f"{key}.{index}.{name}"


def _reading_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if given.get("streaming") is True and "val_fraction" in given:
        yield Conflict(
            "val_fraction",
            "needs to know all examples before training, and data.streaming does not read them",
            "name validation files in data.val",
        )
    if given.get("cache") is False and "cache_dir" in given:
        yield Conflict("cache_dir", "has no effect with cache: false", "keep one of them")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
