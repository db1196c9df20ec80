"""Columns that a choice would leave out although the data mean little without them: options, preferences, systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from entrenar_core.data.column_types import ColumnType, Kind
from entrenar_core.data.task_candidates import prose, spelling
from entrenar_core.data.task_columns import TARGET_ROLES, Task, TaskColumns
from entrenar_core.data.task_fit import Misfit, first_misfit
from entrenar_core.data.task_names import (
    CHOSEN_NAME,
    HEAD_NAMES,
    INSTRUCTION_NAMES,
    METADATA_NAMES,
    OPTIONS_NAMES,
    PAIR_NAMES,
    REJECTED_NAME,
    SYSTEM_NAMES,
)

Columns = Mapping[str, ColumnType]

STRUCTURED = (Task.PROMPT_COMPLETION, Task.INSTRUCTION, Task.CHAT)
"""Tasks whose columns say more than a text and a label do."""

_ANSWER_ROLES = ("completion", "output", "label", "target")


def is_structured(one: TaskColumns, columns: Columns) -> bool:
    """Whether it is a chat, a pair or an instruction whose columns can be read."""
    return one.task in STRUCTURED and first_misfit(one, columns) is None


def unread_misfit(candidates: Sequence[TaskColumns], usable: Sequence[TaskColumns], columns: Columns) -> Misfit | None:
    """The well-known column of a chat, a pair or an instruction that is of the wrong type, and that nothing else reads.

    It does not matter beside another choice of the same task, nor, where it is empty, beside any that is structured;
    and a `source` is mostly where a text comes from.
    """
    read = {name for one in usable for name in one.names}
    tasks = {one.task for one in usable}
    ignored = read if tasks.isdisjoint(STRUCTURED) else read | _empty(columns)
    others = [one for one in candidates if one.task not in tasks and _is_certain(one)]
    return next((found for found in _misfits(others, columns) if found.column.name not in ignored), None)


def _misfits(candidates: Sequence[TaskColumns], columns: Columns) -> list[Misfit]:
    return [found for one in candidates if (found := first_misfit(one, columns)) is not None]


def _is_certain(one: TaskColumns) -> bool:
    return one.task in STRUCTURED and METADATA_NAMES.isdisjoint(map(_lower, one.names))


def _empty(columns: Columns) -> set[str]:
    return {name for name, column in columns.items() if column.kind is Kind.EMPTY}


def pointers_to_options(candidates: Sequence[TaskColumns], columns: Columns) -> list[TaskColumns]:
    """The choices whose answer means nothing without the lists or structs of options beside it.

    Such an answer is a letter or a digit, or a label that only its type tells.
    """
    return [one for one in candidates if _is_pointer(one, columns)] if options_of(columns) else []


def options_of(columns: Columns) -> list[str]:
    """The columns of options."""
    return [
        name
        for name, column in columns.items()
        if _lower(name) in OPTIONS_NAMES and column.kind in (Kind.STRUCT, Kind.VECTOR)
    ]


def answer_of(one: TaskColumns) -> str:
    """The column that is learned; of a text or a chat, the column itself."""
    return next((name for role, name in one.columns.items() if role in _ANSWER_ROLES), one.names[0])


def _is_pointer(one: TaskColumns, columns: Columns) -> bool:
    name = answer_of(one)
    if name == one.names[0]:
        return False
    is_by_type = one.task in TARGET_ROLES and _lower(name) not in HEAD_NAMES
    return is_by_type or _is_letter(columns[name])


def _is_letter(column: ColumnType) -> bool:
    if column.distinct:
        return all(len(value) == 1 for value in column.distinct)
    return column.is_text_like and 0 < column.mean_chars <= 1


def has_preferences(columns: Columns) -> bool:
    return {CHOSEN_NAME, REJECTED_NAME} <= spelling(columns).keys()


def ways_to_train_on_chosen(columns: Columns) -> list[TaskColumns]:
    """What the chosen answers alone can be used for."""
    chosen = spelling(columns)[CHOSEN_NAME][0]
    if columns[chosen].kind is Kind.MESSAGES:
        return [TaskColumns(Task.CHAT, {"messages": chosen})]
    if not columns[chosen].is_text_like:
        return []
    texts = [name for name in prose(columns) if _lower(name) not in (CHOSEN_NAME, REJECTED_NAME)]
    known = [name for name in texts if _lower(name) in (*PAIR_NAMES, *INSTRUCTION_NAMES)]
    prompts = known or (texts if len(texts) == 1 else [])
    pairs = [TaskColumns(Task.PROMPT_COMPLETION, {"prompt": name, "completion": chosen}) for name in prompts]
    return [*pairs, TaskColumns(Task.TEXT, {"text": chosen})]


def notes_of(chosen: TaskColumns, columns: Columns) -> tuple[str, ...]:
    """What a person should know of columns that are not read."""
    if chosen.task not in STRUCTURED:
        return ()
    return tuple(
        f"column {name!r} is not read: no role of this release takes a system prompt; to train with it, make each row "
        "a chat whose first message has the role system"
        for name, column in columns.items()
        if _lower(name) in SYSTEM_NAMES and column.kind is not Kind.EMPTY and name not in chosen.names
    )


def _lower(name: str) -> str:
    return name.strip().lower()
