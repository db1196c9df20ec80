"""Which encoder a source gets, from its task and the chat template, and that the `data` section reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.labels import Labels
from entrenar_core.data.row_encoders import ChatRowEncoder, EncodedRow, LabelledEncoder, PromptEncoder, TextEncoder
from entrenar_core.data.tasks import Task
from entrenar_core.errors import DataError
from entrenar_core.tokenizer.chat_template import ChatTemplate

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer

END = "<|endoftext|>"
MARKED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALKS = frozenset((Task.CHAT, Task.INSTRUCTION, Task.PROMPT_COMPLETION))
ROWS: dict[Task, dict[str, list[Any]]] = {
    Task.TEXT: {"text": ["the fox says hello"]},
    Task.PROMPT_COMPLETION: {"prompt": ["who says"], "completion": ["the fox"]},
    Task.INSTRUCTION: {"instruction": ["who says"], "input": [None], "output": ["the fox"]},
    Task.CHAT: {"messages": [[{"role": "user", "content": "who says"}, {"role": "assistant", "content": "the fox"}]]},
    Task.CLASSIFICATION: {"text": ["the fox"], "label": ["dog"]},
    Task.REGRESSION: {"text": ["the fox"], "target": [2.5]},
}
LABELS = {Task.CLASSIFICATION: Labels(("cat", "dog")), Task.REGRESSION: Labels(mean=2.0, std=1.0)}


def encoding(tokenizer: Tokenizer, task: Task, templated: frozenset[Task] = frozenset(), **fmt: Any) -> Encoding:
    template = ChatTemplate("marked", MARKED, eos=END) if templated else None
    return Encoding(tokenizer, ExampleFormat(100, **fmt), template, templated, LABELS.get(task))


def encoded(tokenizer: Tokenizer, task: Task, templated: frozenset[Task] = frozenset(), **fmt: Any) -> tuple[str, str]:
    """What the model reads of the task's row, and what it learns."""
    encoder = encoding(tokenizer, task, templated, **fmt).encoder(task, "a.parquet")
    (row,) = encoder.encode(ROWS[task], "row {}".format)
    assert isinstance(row, EncodedRow)
    sides = [[token for token, flag in zip(row.tokens, row.supervised, strict=True) if flag == side] for side in (0, 1)]
    context, learned = (tokenizer.decode(tokens, skip_special=False) for tokens in sides)
    return context, learned


@pytest.mark.parametrize(
    ("task", "templated", "kind"),
    [
        (Task.TEXT, TALKS, TextEncoder),
        (Task.PROMPT_COMPLETION, frozenset(), PromptEncoder),
        (Task.PROMPT_COMPLETION, frozenset({Task.CHAT, Task.INSTRUCTION}), PromptEncoder),
        (Task.PROMPT_COMPLETION, TALKS, ChatRowEncoder),
        (Task.INSTRUCTION, frozenset(), PromptEncoder),
        (Task.INSTRUCTION, frozenset({Task.CHAT}), PromptEncoder),
        (Task.INSTRUCTION, TALKS, ChatRowEncoder),
        (Task.CHAT, TALKS, ChatRowEncoder),
        (Task.CLASSIFICATION, TALKS, LabelledEncoder),
        (Task.REGRESSION, frozenset(), LabelledEncoder),
    ],
)
def test_the_encoder_follows_the_task_and_the_template(
    tokenizer: Tokenizer, task: Task, templated: frozenset[Task], kind: type
) -> None:
    assert type(encoding(tokenizer, task, templated).encoder(task, "a.parquet")) is kind


@pytest.mark.parametrize(
    ("task", "context", "learned"),
    [
        (Task.TEXT, "", f"the fox says hello{END}"),
        (Task.PROMPT_COMPLETION, "who says\n", f"the fox{END}"),
        (Task.INSTRUCTION, "### Instruction:\nwho says\n\n### Response:\n", f"the fox{END}"),
    ],
)
def test_plain_text_without_a_template(tokenizer: Tokenizer, task: Task, context: str, learned: str) -> None:
    assert encoded(tokenizer, task) == (context, learned)


@pytest.mark.parametrize("task", sorted(TALKS))
def test_the_same_talk_is_the_same_through_a_template_whatever_its_columns(tokenizer: Tokenizer, task: Task) -> None:
    assert encoded(tokenizer, task, TALKS) == (f"[user]who says{END}[assistant]", f"the fox{END}")


@pytest.mark.parametrize("templated", [frozenset(), TALKS])
@pytest.mark.parametrize("task", [Task.PROMPT_COMPLETION, Task.INSTRUCTION])
def test_a_question_is_trained_too_where_the_section_says_so(
    tokenizer: Tokenizer, task: Task, templated: frozenset[Task]
) -> None:
    context, learned = encoded(tokenizer, task, templated)
    _, everything = encoded(tokenizer, task, templated, train_on_prompt=True)
    assert everything.endswith(learned)
    assert "who says" in context
    assert "who says" in everything


def test_the_separator_stands_between_prompt_and_completion(tokenizer: Tokenizer) -> None:
    assert encoded(tokenizer, Task.PROMPT_COMPLETION, separator=" -> ") == ("who says -> ", f"the fox{END}")


@pytest.mark.parametrize("task", [Task.TEXT, Task.PROMPT_COMPLETION, Task.INSTRUCTION])
def test_the_stop_token_can_be_left_out(tokenizer: Tokenizer, task: Task) -> None:
    assert not encoded(tokenizer, task, add_eos=False)[1].endswith(END)


def test_the_last_turn_alone_can_be_trained(tokenizer: Tokenizer) -> None:
    messages = ROWS[Task.CHAT]["messages"][0]
    encoder = encoding(tokenizer, Task.CHAT, TALKS, train_turns="last").encoder(Task.CHAT, "a.parquet")
    (row,) = encoder.encode({"messages": [[*messages, *messages]]}, "row {}".format)
    assert isinstance(row, EncodedRow)
    learned = [token for token, flag in zip(row.tokens, row.supervised, strict=True) if flag]
    assert tokenizer.decode(learned, skip_special=False) == f"the fox{END}"


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
def test_a_head_learns_one_thing_behind_the_text(tokenizer: Tokenizer, task: Task) -> None:
    encoder = encoding(tokenizer, task).encoder(task, "a.parquet")
    (row,) = encoder.encode(ROWS[task], "row {}".format)
    assert isinstance(row, EncodedRow)
    assert tokenizer.decode(list(row.tokens[:-1]), skip_special=False) == f"the fox{END}"
    assert list(row.supervised) == [0] * (len(row.tokens) - 1) + [1]
    assert (row.tokens[-1], row.value) == ((1, None) if task is Task.CLASSIFICATION else (0, 2.5))


def test_a_row_that_is_no_conversation_is_refused_and_the_first_of_its_kind_is_named(tokenizer: Tokenizer) -> None:
    encoder = encoding(tokenizer, Task.CHAT, TALKS).encoder(Task.CHAT, "a.parquet")
    good = ROWS[Task.CHAT]["messages"][0]
    found = encoder.encode({"messages": [[{"role": "user"}], good, None, [{"role": "user"}]]}, "row {}".format)
    assert [isinstance(row, EncodedRow) for row in found] == [False, True, False, False]
    assert found[0] == found[3]
    assert [notice for notice in encoder.notices if "row 0" in notice]
    assert not [notice for notice in encoder.notices if "row 3" in notice]


def test_chats_without_a_template_are_an_error_that_names_the_key(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="chat data need a chat template") as raised:
        encoding(tokenizer, Task.CHAT).encoder(Task.CHAT, "a.parquet")
    assert raised.value.where == "a.parquet"
    assert "data.chat_template" in str(raised.value.hint)
