"""Keys of the `data` section that cannot go together, beside the names of columns: tasks, sources, streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from entrenar_core.config.base import Conflict, is_number
from entrenar_core.config.column_conflicts import column_conflicts, possible_tasks, role_keys, set_task
from entrenar_core.config.roles import LANGUAGE_TASKS, TASK_ROLES, listed

_NEUTRAL: Mapping[str, object] = {"separator": "\n", "train_on_prompt": False, "train_turns": "all"}
"""Values with which a key says nothing."""

_KEY_TASKS: Mapping[str, tuple[str, ...]] = {
    "separator": ("prompt_completion",),
    "train_on_prompt": ("prompt_completion", "instruction", "chat"),
    "train_turns": ("chat",),
    "chat_template": ("prompt_completion", "instruction", "chat"),
}
"""Keys that have an effect on some tasks only."""


def data_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """Conflicts of the section. `given` holds raw values that may be wrong in other ways."""
    if "val" in given and "val_fraction" in given:
        yield Conflict("val_fraction", "cannot go together with data.val", "keep one of them")
    yield from column_conflicts(given)
    if given.get("auto_infer_types") is False:
        yield from _not_named(given)
    if not any("task" in entry or "columns" in entry for entry in entries(given.get("train"))):
        yield from _no_effect_on_task(given)
    yield from _source_conflicts(given)
    yield from _reading_conflicts(given)


def _not_named(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """With inference off, every column that the task needs must be named."""
    keys, tasks = role_keys(given), possible_tasks(given)
    if not keys and not _every_source_names_columns(given):
        hint = "set data.text, or prompt and completion, or columns"
        yield Conflict("auto_infer_types", "is off, and no columns are named", hint)
    missing = [[role for role in TASK_ROLES[task].required if role not in keys] for task in tasks]
    if keys and tasks and all(missing) and tasks[0] != "prompt_completion":
        yield Conflict(
            "auto_infer_types", f"is off, and {tasks[0]} needs {listed(missing[0])} too", "name it in columns"
        )


def _every_source_names_columns(given: Mapping[str, Any]) -> bool:
    sources = [entry for key in ("train", "val") for entry in entries(given.get(key))]
    return bool(sources) and all("columns" in entry for entry in sources)


def _no_effect_on_task(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """Keys that have no effect on any task that the data can have."""
    possible = possible_tasks(given)
    for key, tasks in _KEY_TASKS.items() if possible else ():
        if not set(tasks) & set(possible) and given.get(key, _NEUTRAL.get(key)) != _NEUTRAL.get(key):
            data = "plain text" if possible[0] == "text" else f"{possible[0]} data"
            yield Conflict(key, f"has no effect on {data}; it is for {listed(tasks)}", "remove it")
    if len(possible) == 1:
        yield from _wrong_for_task(given, possible[0])


def _wrong_for_task(given: Mapping[str, Any], task: str) -> Iterator[Conflict]:
    if task == "chat" and given.get("chat_template") == "none":
        yield Conflict("chat_template", "a chat needs a template", "name one, such as chatml, or remove the key")
    if task not in LANGUAGE_TASKS and str(given.get("overlong")).lower() == "split":
        yield Conflict("overlong", f"one example of {task} cannot become two", "set it to truncate or drop")


def _source_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    for key in ("train", "val"):
        yield from _repeated_paths(key, given.get(key))
    for index, entry in enumerate(entries(given.get("val"))):
        if is_number(entry.get("weight")) and entry["weight"] != 1:
            yield Conflict(_entry_key(given["val"], "val", index, "weight"), "has no effect on validation", "remove it")
    yield from _different_heads(given.get("train"))


def _different_heads(train: object) -> Iterator[Conflict]:
    """Tasks of the sources that cannot be learned by one model at once."""
    first: str | None = None
    for index, entry in enumerate(entries(train)):
        task = set_task(entry)
        first = first or task
        if task is not None and first is not None and _family(task) != _family(first):
            message = f"{task} cannot be trained together with {first}: they need different heads"
            yield Conflict(_entry_key(train, "train", index, "task"), message, "train them in two runs")
            return


def _family(task: str) -> str:
    return "language" if task in LANGUAGE_TASKS else task


def _repeated_paths(key: str, value: object) -> Iterator[Conflict]:
    seen: list[Mapping[str, Any]] = []
    for index, entry in enumerate(entries(value)):
        same = {name: entry.get(name) for name in ("path", "task", "columns")}
        if same["path"] is not None and same in seen:
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
