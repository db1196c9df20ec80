"""Whether a column can play a role, and what to say when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from entrenar_core.data.column_cutoffs import LABEL_FREE_ROWS
from entrenar_core.data.column_types import ColumnType, Kind
from entrenar_core.data.task_columns import TARGET_ROLES, TaskColumns, yaml_name


@dataclass(frozen=True)
class Misfit:
    """Why a column cannot play a role: `needed` is what the role takes ("text"), `remedy` what to do."""

    role: str
    column: ColumnType
    needed: str
    remedy: str

    @property
    def message(self) -> str:
        column = self.column
        if column.is_id and self.role == "target":
            return f"column {column.name!r} is an id, nothing to predict ({column.reason})"
        if column.is_constant and column.kind is not Kind.EMPTY and self.role in ("label", "target"):
            return f"column {column.name!r} never changes, so there is nothing to predict ({column.reason})"
        if column.is_constant and column.is_text_like and self.role == "text":
            return f"column {column.name!r} never changes, so there is nothing to learn from it ({column.reason})"
        return f"column {column.name!r} is {column.kind}, not {self.needed} ({column.reason})"


STRINGS = "name a column of strings, or store this one as strings"
MESSAGES = "a conversation is a list of {role, content} or of {from, value}, or the JSON text of one"


def misfit(role: str, column: ColumnType, *, is_named: bool) -> Misfit | None:
    """None where the column can play the role.

    Args:
        role: one of a task.
        column: what it holds.
        is_named: the YAML names it, so an id or a constant is meant.
    """
    needed, fits, remedy = _ROLES.get(role, ("text", _is_text, STRINGS))
    is_barred = role in ("label", "target") and not is_named and (column.is_id or column.is_constant)
    if fits(column) and not is_barred:
        return None
    return Misfit(role, column, needed, _other_task(role, column) or remedy)


def first_misfit(chosen: TaskColumns, columns: Mapping[str, ColumnType], *, is_named: bool = False) -> Misfit | None:
    """The first column that cannot play its role; nothing is predicted from a text that is always the same."""
    found = (misfit(role, columns[name], is_named=is_named) for role, name in chosen.columns.items())
    first = next((one for one in found if one is not None), None)
    if first is not None or is_named or chosen.task not in TARGET_ROLES:
        return first
    text = columns[chosen.columns["text"]]
    is_always_the_same = text.is_constant and text.n_values >= LABEL_FREE_ROWS
    return Misfit("text", text, "text", STRINGS) if is_always_the_same else None


def _is_text(column: ColumnType) -> bool:
    return column.is_text_like


def _is_input(column: ColumnType) -> bool:
    return column.is_text_like or column.kind is Kind.EMPTY


def _is_messages(column: ColumnType) -> bool:
    return column.kind is Kind.MESSAGES


def _is_tools(column: ColumnType) -> bool:
    return column.kind in (Kind.STRUCT, Kind.EMPTY) or column.is_string


def _is_label(column: ColumnType) -> bool:
    return column.is_label_like


def _is_target(column: ColumnType) -> bool:
    return column.is_numeric


_Rule = tuple[str, Callable[[ColumnType], bool], str]

_ROLES: Mapping[str, _Rule] = {
    "input": ("text", _is_input, STRINGS),
    "messages": (
        "messages",
        _is_messages,
        MESSAGES,
    ),
    "tools": ("a list of tools", _is_tools, "tools are a list of JSON schemas, or the JSON text of one"),
    "label": ("a label", _is_label, "a label has few values that repeat: words, whole numbers, true and false"),
    "target": ("a number", _is_target, "store numbers in this column, or name another one"),
}


def _other_task(role: str, column: ColumnType) -> str | None:
    """The task for which a column fits that does not fit this one."""
    name = yaml_name(column.name)
    if column.kind is Kind.MESSAGES:
        return f"to train on conversations, set task: chat and columns: {{messages: {name}}}"
    if role == "messages" and column.is_text_like:
        return f"{MESSAGES}; to train on it as plain text, set columns: {{text: {name}}}"
    if role in ("label", "target") and not column.is_id and not column.is_constant:
        return _other_head(role, column, name)
    return None


def _other_head(role: str, column: ColumnType, name: str) -> str | None:
    if role == "label" and column.is_numeric:
        return f"to predict a number, set task: regression and columns: {{target: {name}}}"
    if role == "target" and column.is_label_like:
        return f"to predict classes, set task: classification and columns: {{label: {name}}}"
    return None
