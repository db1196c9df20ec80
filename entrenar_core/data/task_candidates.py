"""Every choice of a task and its columns that names or types allow; tasks.py decides among them.

Candidates by name come whatever the types of the columns are, so that a well-known column of the wrong type is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from entrenar_core.data.column_types import ColumnType, Kind
from entrenar_core.data.task_columns import TARGET_ROLES, Task, TaskColumns
from entrenar_core.data.task_fit import first_misfit, misfit
from entrenar_core.data.task_names import (
    CLASS_NAMES,
    CONTEXT_NAMES,
    CORPUS_NAMES,
    EITHER_NAMES,
    HEAD_NAMES,
    INPUT_NAMES,
    INSTRUCTION_NAMES,
    MESSAGES_NAMES,
    METADATA_NAMES,
    NUMBER_NAMES,
    OUTPUT_NAMES,
    PAIR_NAMES,
    QUESTION_NAMES,
    REJECTED_NAME,
    SAME_LABELS,
    STRONG_LABEL_NAMES,
    TEXT_NAMES,
    TOOLS_NAMES,
)

Columns = Mapping[str, ColumnType]


def by_name(columns: Columns) -> list[TaskColumns]:
    """What well-known names allow, without the choices that are part of another one."""
    spelled = spelling(columns)
    structured = [*_pairs(spelled), *_instructions(columns, spelled), *_chats(columns, spelled)]
    texts = [TaskColumns(Task.TEXT, {"text": name}) for name in _spelled(spelled, TEXT_NAMES)]
    is_structured = any(first_misfit(one, columns) is None for one in structured)
    heads = _heads(columns, spelled, STRONG_LABEL_NAMES if is_structured else HEAD_NAMES)
    return _largest([*texts, *structured, *heads], columns)


def by_type(columns: Columns) -> list[TaskColumns]:
    """What types allow where no name says anything: conversations, else texts and what may be predicted from one."""
    chats = [TaskColumns(Task.CHAT, {"messages": name}) for name in _of_kind(columns, Kind.MESSAGES)]
    if chats:
        return chats
    texts = prose(columns)
    if len(texts) != 1:
        return [*(TaskColumns(Task.TEXT, {"text": name}) for name in texts), *_likely_pairs(_in_order(columns, texts))]
    heads = [head for task in TARGET_ROLES for head in heads_by_type(columns, task, texts)]
    plain = TaskColumns(Task.TEXT, {"text": texts[0]})
    return [plain, *heads] if len(heads) != 1 else heads


def _likely_pairs(texts: Sequence[str]) -> list[TaskColumns]:
    """What several texts may be: a known prompt with each that comes after it, or two of them with each other."""
    prompts = [name for name in texts if _singular(name) in _PROMPTS]
    prompts = prompts or (list(texts[:1]) if len(texts) == 2 else [])
    return [
        TaskColumns(Task.PROMPT_COMPLETION, {"prompt": prompt, "completion": name})
        for prompt in prompts
        for name in texts[texts.index(prompt) + 1 :]
    ]


_PROMPTS = (*INSTRUCTION_NAMES, *PAIR_NAMES)
_ANSWERS = {name for names in PAIR_NAMES.values() for name in names} - set(_PROMPTS)


def _in_order(columns: Columns, texts: Sequence[str]) -> list[str]:
    """Known prompts as the table of names has them, then the others as the file has them, then known answers."""

    def rank(name: str) -> int:
        if _singular(name) in _PROMPTS:
            return _PROMPTS.index(_singular(name))
        return len(_PROMPTS) + (_singular(name) in _ANSWERS)

    return sorted((name for name in columns if name in texts), key=rank)


def _singular(name: str) -> str:
    return name.strip().lower().removesuffix("s")


def for_task(columns: Columns, task: Task) -> list[TaskColumns]:
    """What names allow for one task, else what types allow."""
    spelled = spelling(columns)
    if task is Task.TEXT:
        return [TaskColumns(task, {"text": name}) for name in readable(columns)]
    if task is Task.CHAT:
        named = _chats(columns, spelled)
        return named or [TaskColumns(task, {"messages": name}) for name in _of_kind(columns, Kind.MESSAGES)]
    if task is Task.INSTRUCTION:
        return _largest(_instructions(columns, spelled), columns)
    if task is Task.PROMPT_COMPLETION:
        return [*_pairs(spelled), *_pairs_of_instructions(spelled)]
    return heads_for(columns, task, readable(columns))


def heads_for(columns: Columns, task: Task, texts: Sequence[str]) -> list[TaskColumns]:
    """Texts with what may be predicted from them, the task being known: by name, else by type."""
    role = TARGET_ROLES[task]
    own_names = CLASS_NAMES if task is Task.CLASSIFICATION else NUMBER_NAMES
    spelled = spelling(columns)
    for names in (own_names, EITHER_NAMES, HEAD_NAMES):
        named = [name for name in _spelled(spelled, names) if misfit(role, columns[name], is_named=True) is None]
        named = _without_same_labels(columns, named)
        if named:
            return _crossed(task, texts, named)
    return heads_by_type(columns, task, texts)


def heads_by_type(columns: Columns, task: Task, texts: Sequence[str]) -> list[TaskColumns]:
    """Texts with each category, or each number, that is no id, no constant and no known piece of metadata."""
    kinds = (Kind.NUMBER,) if task is Task.REGRESSION else (Kind.CATEGORY, Kind.BINARY)
    role = TARGET_ROLES[task]
    fitting = [
        name
        for name in _of_kind(columns, *kinds)
        if misfit(role, columns[name], is_named=False) is None and name.lower() not in METADATA_NAMES
    ]
    return _crossed(task, texts, fitting)


def readable(columns: Columns, besides: str | None = None) -> list[str]:
    """The texts that a prediction may be made from: by name, else by type, else whatever consists of strings."""
    rest = {name: column for name, column in columns.items() if name != besides and column.is_text_like}
    named = _spelled(spelling(rest), TEXT_NAMES)
    strings = [name for name, column in rest.items() if not column.is_id and name.lower() not in _NOT_READ]
    return named or prose(rest) or sorted(strings)


def prose(columns: Columns) -> list[str]:
    """Columns of text that are no ids; metadata, rejected answers and constants only where there is no other."""
    texts = [name for name in _of_kind(columns, Kind.TEXT) if not columns[name].is_id]
    about = METADATA_NAMES | {REJECTED_NAME}
    return [name for name in texts if name.lower() not in about and not columns[name].is_constant] or texts


_NOT_READ = METADATA_NAMES | set(HEAD_NAMES)


def spelling(columns: Iterable[str]) -> dict[str, list[str]]:
    """Names in lower case, and how the table spells them."""
    spelled: dict[str, list[str]] = {}
    for name in sorted(columns):
        spelled.setdefault(name.strip().lower(), []).append(name)
    return spelled


def _spelled(spelled: Mapping[str, Sequence[str]], known: Iterable[str]) -> list[str]:
    return [name for lower in known for name in spelled.get(lower, ())]


def _of_kind(columns: Columns, *kinds: Kind) -> list[str]:
    return sorted(name for name, column in columns.items() if column.kind in kinds)


def _pairs(spelled: Mapping[str, Sequence[str]]) -> list[TaskColumns]:
    return [
        TaskColumns(Task.PROMPT_COMPLETION, {"prompt": prompt, "completion": completion})
        for known, answers in PAIR_NAMES.items()
        for prompt in spelled.get(known, ())
        for completion in _spelled(spelled, answers)
    ]


def _pairs_of_instructions(spelled: Mapping[str, Sequence[str]]) -> list[TaskColumns]:
    return [
        TaskColumns(Task.PROMPT_COMPLETION, {"prompt": prompt, "completion": completion})
        for prompt in _spelled(spelled, INSTRUCTION_NAMES)
        for completion in _spelled(spelled, OUTPUT_NAMES)
    ]


def _instructions(columns: Columns, spelled: Mapping[str, Sequence[str]]) -> list[TaskColumns]:
    """With an input where there is one; a column of the type null has nothing to read."""
    outputs = _spelled(spelled, OUTPUT_NAMES)
    inputs = _with_type(columns, _spelled(spelled, INPUT_NAMES))
    found = [
        {"instruction": instruction, **more, "output": output}
        for instruction in _spelled(spelled, INSTRUCTION_NAMES)
        for output in outputs
        for more in [{"input": name} for name in inputs] or [{}]
    ]
    questions = [
        {"instruction": question, "input": context, "output": output}
        for question in _spelled(spelled, QUESTION_NAMES)
        for output in outputs
        for context in _with_type(columns, _spelled(spelled, CONTEXT_NAMES))
    ]
    return [TaskColumns(Task.INSTRUCTION, roles) for roles in (*found, *questions)]


def _chats(columns: Columns, spelled: Mapping[str, Sequence[str]]) -> list[TaskColumns]:
    tools = [{"tools": name} for name in _with_type(columns, _spelled(spelled, TOOLS_NAMES))] or [{}]
    return [
        TaskColumns(Task.CHAT, {"messages": messages, **more})
        for messages in _spelled(spelled, MESSAGES_NAMES)
        for more in tools
    ]


def _with_type(columns: Columns, names: Iterable[str]) -> list[str]:
    return [name for name in names if columns[name].arrow_type != "null"]


def _heads(columns: Columns, spelled: Mapping[str, Sequence[str]], known: Iterable[str]) -> list[TaskColumns]:
    """Texts with each column that is named as something to predict, as class or as number by its name and kind."""
    targets = _without_same_labels(columns, _spelled(spelled, known))
    return [
        head
        for name in targets
        for head in _crossed(_task_of_target(columns[name]), readable(columns, besides=name), [name])
    ]


def _task_of_target(column: ColumnType) -> Task:
    """By the name where it says so, else by the kind; where neither fits, what the name says first."""
    name = column.name.strip().lower()
    is_class = column.kind in (Kind.CATEGORY, Kind.BINARY) or (name in CLASS_NAMES and column.is_label_like)
    if name in CLASS_NAMES or name in EITHER_NAMES:
        is_number = name in EITHER_NAMES and column.is_numeric and not is_class
        return Task.REGRESSION if is_number else Task.CLASSIFICATION
    return Task.REGRESSION


def _without_same_labels(columns: Columns, names: Sequence[str]) -> list[str]:
    """Without `label_text` beside a `label` of as many values: they are the same labels."""
    by_lower = {name.strip().lower(): name for name in names}

    def is_other(name: str) -> bool:
        original = by_lower.get(SAME_LABELS.get(name.strip().lower(), ""))
        return original is None or columns[original].n_distinct != columns[name].n_distinct

    return [name for name in names if is_other(name)]


def _crossed(task: Task, texts: Iterable[str], targets: Iterable[str]) -> list[TaskColumns]:
    role = TARGET_ROLES[task]
    return [TaskColumns(task, {"text": text, role: target}) for target in targets for text in texts if text != target]


def _largest(candidates: Sequence[TaskColumns], columns: Columns) -> list[TaskColumns]:
    """Without candidates that use a part of another's columns."""
    return [one for one in candidates if not any(_replaces(other, one, columns) for other in candidates)]


def _replaces(other: TaskColumns, one: TaskColumns, columns: Columns) -> bool:
    if other.task is Task.REGRESSION and _is_filter_score(other.columns["target"], columns):
        return False
    if "input" in other.columns and one.task is Task.TEXT and one.columns["text"].lower() == "text":
        return True  # Stanford's file holds its three columns, written out, in a fourth one
    return set(one.names) < set(other.names)


def _is_filter_score(name: str, columns: Columns) -> bool:
    """Whether it is the score that filtered a corpus from the web, as likely as something to predict."""
    return name.lower() in NUMBER_NAMES and not CORPUS_NAMES.isdisjoint(spelling(columns))
