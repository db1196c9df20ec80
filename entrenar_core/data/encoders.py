"""Chooses the encoder of a source from its task, the chat template and the `data` section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from entrenar_core.data.conversations import alpaca_prompt, chat_row, instruction_row, prompt_row
from entrenar_core.data.labels import Labels
from entrenar_core.data.row_encoders import (
    ChatRowEncoder,
    Frame,
    LabelledEncoder,
    Overlong,
    PromptEncoder,
    RowEncoder,
    TextEncoder,
)
from entrenar_core.data.task_columns import TARGET_ROLES, Task
from entrenar_core.errors import DataError

if TYPE_CHECKING:
    from entrenar_core.tokenizer.chat_template import ChatTemplate
    from entrenar_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExampleFormat:
    """How a row becomes an example; the fields mean what the keys of the YAML's `data` section mean."""

    seq_len: int
    separator: str = "\n"
    train_on_prompt: bool = False
    train_turns: Literal["all", "last"] = "all"
    add_bos: bool | None = None
    add_eos: bool = True
    overlong: Overlong | None = None


@dataclass(frozen=True)
class Encoding:
    """Everything besides the data itself that decides which tokens come out.

    template: for the tasks in `templated`; the others are plain text.
    labels: of a classification or regression task.
    """

    tokenizer: Tokenizer
    fmt: ExampleFormat
    template: ChatTemplate | None = None
    templated: frozenset[Task] = frozenset()
    labels: Labels | None = None

    def encoder(self, task: Task, where: str) -> RowEncoder:
        """The encoder of one source; `where` names it.

        Raises:
            DataError: a special token is asked for that the tokenizer does not have; chat data without a template.
        """
        if task in TARGET_ROLES:
            if self.labels is None:
                raise ValueError(f"{task} needs labels")
            return LabelledEncoder(self.tokenizer, self._frame(where), self.labels, TARGET_ROLES[task])
        if task is Task.TEXT:
            return TextEncoder(self.tokenizer, self._frame(where))
        if self.template is not None and task in self.templated:
            return self._chat_encoder(task, self.template)
        if task is Task.CHAT:
            raise DataError("chat data need a chat template", where=where, hint="set data.chat_template: chatml")
        return self._prompt_encoder(task, where)

    def _chat_encoder(self, task: Task, template: ChatTemplate) -> RowEncoder:
        from entrenar_core.tokenizer.chat import ChatEncoder

        fmt = self.fmt
        chat = ChatEncoder(
            self.tokenizer,
            template,
            add_bos=fmt.add_bos,
            add_eos=fmt.add_eos,
            train_turns=fmt.train_turns,
            train_prompt=fmt.train_on_prompt,
        )
        converse = {Task.CHAT: chat_row, Task.INSTRUCTION: instruction_row, Task.PROMPT_COMPLETION: prompt_row}
        return ChatRowEncoder(chat, converse[task])

    def _prompt_encoder(self, task: Task, where: str) -> RowEncoder:
        plain = task is Task.PROMPT_COMPLETION
        return PromptEncoder(
            self.tokenizer,
            self._frame(where),
            join=self._with_separator if plain else alpaca_prompt,
            required=("prompt", "completion") if plain else ("instruction", "output"),
            train_on_prompt=self.fmt.train_on_prompt,
        )

    def _with_separator(self, row: Mapping[str, Any]) -> str:
        return f"{row['prompt']}{self.fmt.separator}"

    def _frame(self, where: str) -> Frame:
        return Frame.of(self.tokenizer, self.fmt.add_bos, self.fmt.add_eos, where)
