"""The `data` section: what is trained on, which columns, and how examples become batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from entrenar_core.config.base import AnyCase, Conflict, NonEmpty, Section, not_allowed
from entrenar_core.config.column_conflicts import column_conflicts
from entrenar_core.config.column_names import ColumnNames
from entrenar_core.config.data_conflicts import data_conflicts
from entrenar_core.config.roles import SHORT_ROLES, TASK_ROLES, TaskName

SEPARATOR = "\n"


class Source(Section):
    """One file, folder or pattern of files, and what is particular to it."""

    path: str = Field(min_length=1, description="a file, a folder or a pattern such as data/*.parquet")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="how often each example is visited in an epoch; 0.5: a new seeded half each epoch, 2: twice",
    )
    task: Annotated[TaskName | None, AnyCase] = Field(
        default=None, description="what this source is for; default: data.task"
    )
    columns: ColumnNames | None = Field(
        default=None, description="columns of this source by role; default: data.columns"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from column_conflicts(given)

    @model_serializer(mode="wrap")
    def _only_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if value is not None}


def _sources(value: Any) -> Any:
    """A path, a mapping or a list of them, as a tuple of mappings."""
    if isinstance(value, (str, Mapping, Source)):
        value = (value,)
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a path, or a list of paths and of mappings such as {path: a.parquet, weight: 0.5}")
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)


Sources = Annotated[
    tuple[Source, ...],
    BeforeValidator(
        _sources,
        json_schema_input_type=NonEmpty | Source | Annotated[list[NonEmpty | Source], Field(min_length=1)],
    ),
]


class Data(Section):
    """The data set and its way into batches."""

    train: Sources = Field(
        description="what to train on: a file (parquet, JSONL, CSV, Arrow), a folder, a pattern, or a list of them"
    )
    val: Sources | None = Field(default=None, description="what to validate on, written like train")
    val_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="share of the training examples held out to validate on"
    )
    task: Annotated[TaskName | None, AnyCase] = Field(
        default=None, description="what the data is for; default: inferred from the columns"
    )
    columns: ColumnNames | None = Field(
        default=None, description="column names by role, such as {text: review, label: stars}; default: inferred"
    )
    text: str | None = Field(default=None, min_length=1, description="short for columns.text: a column of plain text")
    prompt: str | None = Field(
        default=None, min_length=1, description="short for columns.prompt: read but not trained on"
    )
    completion: str | None = Field(
        default=None, min_length=1, description="short for columns.completion: what the model learns to write"
    )
    separator: str = Field(default=SEPARATOR, description="text between prompt and completion, not trained on")
    seq_len: int | None = Field(
        default=None, ge=2, description="longest example in tokens; default: the model's context, at most 1024"
    )
    batch_size: int = Field(default=8, ge=1, description="examples in one forward pass")
    packing: bool = Field(default=False, description="put several short examples in one row, isolated from each other")
    overlong: Annotated[Literal["truncate", "split", "drop"] | None, AnyCase] = Field(
        default=None,
        description="what happens to examples over seq_len; default: split text, truncate everything else",
    )
    train_on_prompt: bool = Field(default=False, description="train on the prompt too")
    train_turns: Annotated[Literal["all", "last"], AnyCase] = Field(
        default="all", description="chat: which of the assistant's turns are trained on"
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="chat, instruction, prompt and completion: a built-in name such as chatml, a name in the GGUF, "
        "the path of a .jinja file, inline Jinja text, or none (instruction data in Alpaca's plain form); "
        "default: the model's own",
    )
    add_bos: bool | None = Field(
        default=None, description="begin every example with the BOS token; default: what the tokenizer says"
    )
    add_eos: bool = Field(default=True, description="end every example with the EOS token, which is trained")
    shuffle: bool = Field(default=True, description="visit the examples in a new, seeded order every epoch")
    auto_infer_types: bool = Field(default=True, description="find the task and the columns from names and contents")
    streaming: bool | None = Field(
        default=None, description="read and tokenize while training; default: when the data is too large to hold"
    )
    cache: bool = Field(default=True, description="keep the tokenized data for the next run")
    cache_dir: str | None = Field(
        default=None, min_length=1, description="folder of the tokenized data; default: ~/.cache/entrenar/tokens"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from data_conflicts(given)

    @property
    def named_columns(self) -> Mapping[str, str]:
        """Role -> column of the whole section, the short forms included."""
        short = {role: getattr(self, role) for role in SHORT_ROLES if getattr(self, role) is not None}
        return {**(self.columns or {}), **short}

    def task_of(self, source: Source) -> str | None:
        """The task that is set for a source; None where it is to be inferred."""
        return source.task or self.task

    def columns_of(self, source: Source) -> Mapping[str, str]:
        """Role -> column for a source: its own, else those of the section that its task has."""
        if source.columns is not None:
            return source.columns
        if source.task is None:
            return self.named_columns
        known = TASK_ROLES[source.task].all
        return {role: name for role, name in self.named_columns.items() if role in known}
