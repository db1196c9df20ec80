"""From the `data` section to loaders: which template, whether it is streamed, validation data, labels, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.data.loader import Loader
from entrenar_core.data.stream import StreamLoader
from entrenar_core.data.tasks import Task
from entrenar_core.errors import ConfigError, DataError, TokenizerError
from entrenar_core.events import Notice
from entrenar_core.stages import dataset
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import TOKENIZER_THREADS, DataSets, OpenedData, load_datasets, open_data
from tests.stages.tiny_base import CONTEXT, config, stories, write_base
from tests.train.tiny_model import Listener

PROMPTS, ANSWERS = (list(side) for side in zip(*stories(), strict=True))
TURNS = [[{"role": "user", "content": one}, {"role": "assistant", "content": other}] for one, other in stories()]
FORMS: dict[str, dict[str, list[Any]]] = {
    "text": {"text": ANSWERS},
    "prompt_completion": {"prompt": PROMPTS, "completion": ANSWERS},
    "instruction": {"instruction": PROMPTS, "output": ANSWERS},
    "chat": {"messages": TURNS},
    "classification": {"review": PROMPTS, "label": ["good", "bad"] * 10},
}


def write(path: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


@contextmanager
def opened(folder: Path, reporter: Listener | None = None, **sections: Any) -> Iterator[OpenedData]:
    settings = config(folder, **sections)
    base = open_base(settings, Listener())
    try:
        yield open_data(settings, base, reporter or Listener())
    finally:
        base.close()


@contextmanager
def loaded(folder: Path, **sections: Any) -> Iterator[DataSets]:
    settings = config(folder, **sections)
    base = open_base(settings, Listener())
    data = load_datasets(settings, base, open_data(settings, base, Listener()), Listener())
    try:
        yield data
    finally:
        data.close()
        base.close()


# -- the chat template ----------------------------------------------------------------------------------------------

OWN, NONE = "default", None


def template_name(folder: Path, forms: list[str], choice: str | None) -> str | None:
    """The name of the template that data of these forms go through, if any."""
    paths = [write(folder / f"{form}.parquet", **FORMS[form]) for form in forms]
    with opened(folder, data={"train": paths, "chat_template": choice}) as data:
        return data.encoding.template.name if data.encoding.template else None


@pytest.mark.parametrize(
    ("form", "choice", "name"),
    [
        ("chat", None, OWN),
        ("chat", "zephyr", "zephyr"),
        ("instruction", None, OWN),
        ("instruction", "zephyr", "zephyr"),
        ("instruction", "none", NONE),
        ("prompt_completion", None, NONE),
        ("prompt_completion", "zephyr", "zephyr"),
        ("prompt_completion", "none", NONE),
        ("text", None, NONE),
        ("classification", None, NONE),
    ],
)
def test_the_template_for_a_model_that_has_one(folder: Path, form: str, choice: str | None, name: str | None) -> None:
    assert template_name(folder, [form], choice) == name


@pytest.mark.parametrize(
    ("form", "choice", "name"),
    [
        ("chat", "zephyr", "zephyr"),
        ("instruction", None, NONE),
        ("instruction", "zephyr", "zephyr"),
        ("prompt_completion", None, NONE),
    ],
)
def test_the_template_for_a_model_that_has_none(
    tmp_path: Path, form: str, choice: str | None, name: str | None
) -> None:
    write_base(tmp_path / "base.gguf", without=("tokenizer.chat_template",))
    assert template_name(tmp_path, [form], choice) == name


def test_a_chat_for_a_model_without_a_template_is_an_error_that_lists_some(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", without=("tokenizer.chat_template",))
    with pytest.raises(TokenizerError, match="the model has no chat template") as raised:
        template_name(tmp_path, ["chat"], None)
    assert "set data.chat_template; built in: " in str(raised.value.hint)


def test_a_chat_cannot_do_without_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match="the data are chats, which need a template") as raised:
        template_name(folder, ["chat"], "none")
    assert raised.value.where == "data.chat_template"


@pytest.mark.parametrize(
    ("choice", "by_template"), [(None, {Task.CHAT, Task.INSTRUCTION}), ("zephyr", set(Task) - set(dataset.HEAD_TASKS))]
)
def test_a_source_is_treated_alike_whatever_it_is_mixed_with(
    folder: Path, choice: str | None, by_template: set[Task]
) -> None:
    """Each source alone, and all of them together, give the same tokens."""
    forms = ["text", "prompt_completion", "instruction", "chat"]
    paths = {form: write(folder / f"{form}.parquet", **FORMS[form]) for form in forms}
    alone = {}
    for form, path in paths.items():
        with loaded(folder, data={"train": path, "chat_template": None if form == "text" else choice}) as data:
            assert data.train is not None
            alone[form] = [data.train.examples[index].tokens.tolist() for index in range(20)]
    with loaded(folder, data={"train": list(paths.values()), "chat_template": choice}) as data:
        assert data.train is not None
        mixed = [data.train.examples[index].tokens.tolist() for index in range(80)]
    assert mixed == [tokens for form in forms for tokens in alone[form]]
    pairs_are_turns = alone["prompt_completion"] == alone["chat"]
    assert pairs_are_turns == (Task.PROMPT_COMPLETION in by_template)
    assert alone["instruction"] == alone["chat"]


# -- streaming ------------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(folder: Path) -> str:
    return write(folder / "train.parquet", text=ANSWERS)


@pytest.mark.parametrize(
    ("threshold", "streaming", "is_streamed"),
    [(0, None, True), (1 << 40, None, False), (0, False, False), (1 << 40, True, True)],
)
def test_large_data_are_streamed_unless_the_config_decides(
    folder: Path, texts: str, threshold: int, streaming: bool | None, is_streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "STREAM_FROM_BYTES", threshold)
    with loaded(folder, data={"train": texts, "streaming": streaming}) as data:
        assert data.opened.streaming is is_streamed
        assert isinstance(data.train_loader, StreamLoader if is_streamed else Loader)
        assert (data.train is None) is is_streamed
        assert data.train_examples == 20


def test_the_size_is_that_of_all_training_files_together(
    folder: Path, texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = write(folder / "more.parquet", text=ANSWERS[::-1])
    monkeypatch.setattr(dataset, "STREAM_FROM_BYTES", Path(texts).stat().st_size)
    with opened(folder, data={"train": texts, "val": more}) as data:
        assert not data.streaming
    with opened(folder, data={"train": [texts, more]}) as data:
        assert data.streaming


@pytest.mark.parametrize(
    ("sections", "where", "hint"),
    [
        ({"training": {"max_steps": None, "epochs": 2}}, "training.max_steps", "set it"),
        ({"data": {"val_fraction": 0.1}}, "data.val_fraction", "name validation files in data.val"),
    ],
)
def test_data_found_to_be_too_large_need_what_a_stream_needs(
    folder: Path, texts: str, sections: dict[str, Any], where: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "STREAM_FROM_BYTES", 0)
    with pytest.raises(ConfigError, match="are streamed") as raised, opened(folder, **sections):
        pass
    assert raised.value.where == where
    assert hint in str(raised.value.hint)
    assert "data.streaming: false" in str(raised.value.hint)


def test_the_validation_data_of_a_stream_are_held(folder: Path, texts: str) -> None:
    val = write(folder / "val.parquet", text=ANSWERS[:5])
    with loaded(folder, data={"train": texts, "val": val, "streaming": True}) as data:
        assert (data.train, data.val_examples) == (None, 5)
        assert isinstance(data.val_loader, Loader)


def test_both_ways_train_on_the_same_examples(folder: Path, texts: str) -> None:
    seen = []
    for streaming in (False, True):
        with loaded(folder, data={"train": texts, "streaming": streaming}) as data:
            loader = data.train_loader
            batches = [loader.batch(0, index) for index in range(loader.batches_per_epoch(0))]
            rows = [row[np.flatnonzero(row >= 0)] for batch in batches for row in batch.labels]
            seen.append(sorted(row.tolist() for row in rows))
    assert seen[0] == seen[1]


# -- validation data ------------------------------------------------------------------------------------------------


def test_validation_data_are_read_like_the_training_data(folder: Path) -> None:
    """The columns of `val` alone would be taken for something else, or not be told at all."""
    train = write(folder / "train.parquet", body=PROMPTS, summary=ANSWERS)
    val = write(folder / "val.parquet", body=PROMPTS, summary=ANSWERS, text=PROMPTS)
    source = {"path": train, "task": "prompt_completion", "columns": {"prompt": "body", "completion": "summary"}}
    with opened(folder, data={"train": [source], "val": val}) as data:
        (held_out,) = data.val
        assert (held_out.task, held_out.columns.columns) == (data.train[0].task, data.train[0].columns.columns)


def test_columns_that_were_inferred_are_said(folder: Path, texts: str) -> None:
    reporter = Listener()
    with opened(folder, reporter, data={"train": texts}):
        pass
    assert [notice.message for notice in reporter.of(Notice)] == [f"{texts}: columns inferred: text: text 'text'"]


def test_columns_that_were_named_are_not(folder: Path, texts: str) -> None:
    reporter = Listener()
    with opened(folder, reporter, data={"train": texts, "text": "text"}):
        pass
    assert reporter.of(Notice) == []


# -- labels ---------------------------------------------------------------------------------------------------------


def test_classes_are_those_of_all_training_sources(folder: Path) -> None:
    one = write(folder / "one.parquet", review=PROMPTS, label=["good", "bad"] * 10)
    two = write(folder / "two.parquet", review=PROMPTS, label=["ugly", "bad"] * 10)
    with opened(folder, data={"train": [one, two]}) as data:
        assert data.head_task is Task.CLASSIFICATION
        assert data.encoding.labels is not None
        assert data.encoding.labels.classes == ("bad", "good", "ugly")


def test_the_scale_of_a_target_is_that_of_all_training_sources(folder: Path) -> None:
    numbers = [number / 3 for number in range(40)]
    paths = [
        write(folder / f"{name}.parquet", review=PROMPTS, score=part)
        for name, part in (("one", numbers[:20]), ("two", numbers[20:]))
    ]
    with opened(folder, data={"train": paths}) as data:
        assert data.encoding.labels is not None
        assert data.encoding.labels.mean == pytest.approx(np.mean(numbers))
        assert data.encoding.labels.std == pytest.approx(np.std(numbers))


def test_the_validation_data_add_no_class(folder: Path) -> None:
    train = write(folder / "train.parquet", review=PROMPTS, label=["good", "bad"] * 10)
    val = write(folder / "val.parquet", review=PROMPTS, label=["good", "ugly"] * 10)
    with (
        pytest.raises(DataError, match="the label 'ugly' is not among the classes of the training data"),
        loaded(folder, data={"train": train, "val": val}),
    ):
        pass


def test_a_language_model_has_no_labels(folder: Path, texts: str) -> None:
    with opened(folder, data={"train": texts}) as data:
        assert (data.head_task, data.encoding.labels) == (None, None)


# -- length and threads ---------------------------------------------------------------------------------------------


def test_the_longest_example_is_the_context_unless_it_is_set_shorter(folder: Path, texts: str) -> None:
    with opened(folder, data={"train": texts}) as data:
        assert data.encoding.fmt.seq_len == CONTEXT
    with opened(folder, data={"train": texts, "seq_len": 16}) as data:
        assert data.encoding.fmt.seq_len == 16


def test_a_window_beyond_the_context_is_refused(folder: Path, texts: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"data.seq_len is {CONTEXT + 1}, but"),
        opened(folder, data={"train": texts, "seq_len": CONTEXT + 1}),
    ):
        pass


@pytest.mark.parametrize(("threads", "set_before", "expected"), [(3, None, "3"), (3, "2", "2"), (None, None, None)])
def test_the_tokenizer_keeps_to_the_threads_of_the_run(
    folder: Path,
    texts: str,
    threads: int | None,
    set_before: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKENIZER_THREADS, set_before or "")
    if set_before is None:
        monkeypatch.delenv(TOKENIZER_THREADS)
    with loaded(folder, data={"train": texts}, training={"threads": threads}):
        assert os.environ.get(TOKENIZER_THREADS) == expected
