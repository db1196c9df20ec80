"""`entrenar init`'s draft: what the two files tell is decided, and the result is a configuration that validates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from entrenar_core.config.load import load_config
from entrenar_core.data.task_errors import TaskError
from entrenar_core.errors import ConfigError, DataError, FormatError, TokenizerError
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.stages import dataset
from entrenar_core.stages.dry_run import CheckedRun, check_run
from entrenar_core.stages.init import LENGTH_SHARE, Draft, InitRequest, draft_config
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

SENTENCE = "Ada saw a red ball and gave it to Bo number"
SENTENCES = [f"{SENTENCE} {number}." for number in range(20)]
CHAT = [
    [{"role": "user", "content": f"What did Ada see, number {number}?"}, {"role": "assistant", "content": "A ball."}]
    for number in range(20)
]
TASKS: dict[str, dict[str, list[Any]]] = {
    "text": {"text": SENTENCES},
    "prompt_completion": {"prompt": SENTENCES, "completion": SENTENCES},
    "instruction": {"instruction": SENTENCES, "input": [""] * 20, "output": SENTENCES},
    "chat": {"messages": CHAT},
    "classification": {"review": SENTENCES, "label": ["good", "bad"] * 10},
    "regression": {"review": SENTENCES, "score": [number / 7 for number in range(20)]},
}


def write_table(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    return tmp_path


def draft(folder: Path, data: Path, name: str = "config.yaml", **said: Any) -> Draft:
    return draft_config(InitRequest(str(folder / "base.gguf"), str(data), **said), name)


def validated(found: Draft, folder: Path) -> CheckedRun:
    """What `entrenar validate` says of the written file."""
    path = folder / "written.yaml"
    path.write_text(found.text, encoding="utf-8")
    config = load_config(path)
    assert config == found.config
    return check_run(config, SilentReporter())


@pytest.mark.parametrize("task", TASKS)
def test_there_is_a_valid_draft_for_each_task_with_its_columns_written_out(task: str, folder: Path) -> None:
    data = write_table(folder / "data.parquet", **TASKS[task])
    found = draft(folder, data)
    (source,) = validated(found, folder).train
    assert source.task == found.config.data.task == task
    used = {column.role: column.name for column in source.columns if column.role}
    assert used == dict(found.config.data.columns or {})
    assert set(used.values()) == set(TASKS[task])


@pytest.mark.parametrize(("task", "packs"), [("text", True), ("classification", False)])
def test_short_examples_are_packed_but_not_those_of_a_head(task: str, packs: bool, folder: Path) -> None:
    data = write_table(folder / "data.parquet", **(TASKS[task] | {next(iter(TASKS[task])): ["Ada saw it then"] * 20}))
    assert draft(folder, data, task=task).config.data.packing is packs


def test_the_models_own_template_is_left_alone_and_pointed_at(folder: Path) -> None:
    found = draft(folder, write_table(folder / "data.parquet", messages=CHAT))
    assert found.config.data.chat_template is None
    assert "# chat_template: the model's own" in found.text


def test_a_chat_for_a_model_without_a_template_gets_one_that_the_file_names(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", without=("tokenizer.chat_template",))
    found = draft(tmp_path, write_table(tmp_path / "data.parquet", messages=CHAT))
    assert found.config.data.chat_template == "zephyr"
    comment = "the model has none; its turns end with <|endoftext|>, a stop token of the vocabulary; others: alpaca"
    assert f"  chat_template: zephyr # {comment}" in found.text
    validated(found, tmp_path)


def stop_token_called(name: str) -> tuple[str, MetadataValue]:
    tokens = [str(token) for token in dict(tokenizer_entries())["tokenizer.ggml.tokens"].value]
    renamed = [name if token == "<|endoftext|>" else token for token in tokens]
    return "tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, renamed)


@pytest.mark.parametrize(
    ("token", "template"), [("<|im_end|>", "chatml"), ("<|eot_id|>", "llama3"), ("<end_of_turn>", "gemma")]
)
def test_the_template_is_one_whose_end_the_vocabulary_knows(token: str, template: str, tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", extra=[stop_token_called(token)], without=("tokenizer.chat_template",))
    found = draft(tmp_path, write_table(tmp_path / "data.parquet", messages=CHAT))
    assert found.config.data.chat_template == template
    assert f"its turns end with {token}, a stop token" in found.text


def test_where_no_template_ends_with_a_stop_token_the_file_says_so(tmp_path: Path) -> None:
    without = ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id")
    write_base(tmp_path / "base.gguf", extra=[stop_token_called("<|x|>")], without=without)
    found = draft(tmp_path, write_table(tmp_path / "data.parquet", messages=CHAT))
    assert found.config.data.chat_template == "chatml"
    assert "its turns end with <|im_end|>, which is text here: no template ends with a stop token" in found.text
    validated(found, tmp_path)


def test_a_broken_template_of_the_model_is_an_error_and_no_other_is_taken(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", extra=[("tokenizer.chat_template", MetadataValue.string("{% for %}"))])
    with pytest.raises(TokenizerError, match="the chat template is broken"):
        draft(tmp_path, write_table(tmp_path / "data.parquet", messages=CHAT))


def test_an_instruction_needs_no_template(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", without=("tokenizer.chat_template",))
    found = draft(tmp_path, write_table(tmp_path / "data.parquet", **TASKS["instruction"]))
    assert found.config.data.chat_template is None
    assert "chat_template" not in found.text
    validated(found, tmp_path)


def test_seq_len_fits_nearly_all_examples_within_the_context(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", base_spec(context_length=512))
    short = write_table(tmp_path / "short.parquet", text=["Ada saw a ball"] * 95 + [SENTENCE * 40] * 5)
    long = write_table(tmp_path / "long.parquet", text=[SENTENCE * 40] * 20)
    assert LENGTH_SHARE == 0.95
    assert draft(tmp_path, short).config.data.seq_len == 64
    assert draft(tmp_path, long).config.data.seq_len == 512


def test_a_share_is_set_aside_where_there_are_enough_rows(folder: Path) -> None:
    few = write_table(folder / "few.parquet", text=SENTENCES)
    many = write_table(folder / "many.parquet", text=SENTENCES * 5)
    assert draft(folder, few).config.data.val_fraction is None
    assert draft(folder, many).config.data.val_fraction == 0.02


def test_large_data_are_streamed_for_a_number_of_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "STREAM_FROM_BYTES", 100)
    found = draft(folder, write_table(folder / "data.parquet", text=SENTENCES * 10))
    assert (found.config.data.streaming, found.config.data.val_fraction) == (True, None)
    assert found.config.training.max_steps == 1000
    assert validated(found, folder).is_streamed


def test_columns_that_are_not_used_are_named(folder: Path) -> None:
    data = write_table(folder / "data.parquet", **{"text": SENTENCES, "source\nfile": ["x y"] * 20})
    assert "columns: {text: text} # not used: source?file\n" in draft(folder, data).text


def test_the_output_folder_has_the_name_of_the_file(folder: Path) -> None:
    data = write_table(folder / "data.parquet", text=SENTENCES)
    assert draft(folder, data, "some/where/stories.yaml").config.training.output_dir == "runs/stories"


AWKWARD = [
    "two words",
    'it\'s "quoted"',
    "back\\slash",
    "colon: # hash",
    "- {x: [y]}",
    "caf\u00e9 \u6570\u636e \U0001f600",
    "line\nbreak\tand\u2028more\x85",
    "${HOME} and $1",
    "true",
    "1e-4",
    "~",
    "0x1F",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_names_of_files_and_columns_survive_yaml(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.mkdir()
    write_base(place / "base.gguf")
    data = write_table(place / f"{name}.parquet", **{name: SENTENCES, "other text": SENTENCES})
    found = draft(place, data, f"{name}.yaml", columns={"text": name})
    (source,) = validated(found, tmp_path).train
    assert source.path == str(data)
    assert found.config.model.path == str(place / "base.gguf")
    assert found.config.data.columns == {"text": name}
    assert found.config.training.output_dir == f"runs/{name}"


def test_text_of_any_language_stays_readable(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf")
    data = write_table(tmp_path / "caf\u00e9 \u6570\u636e.parquet", text=SENTENCES)
    assert "caf\u00e9 \u6570\u636e.parquet" in draft(tmp_path, data).text


def test_the_draft_is_plain_yaml(folder: Path) -> None:
    content = yaml.safe_load(draft(folder, write_table(folder / "data.parquet", text=SENTENCES)).text)
    assert list(content) == ["version", "model", "data", "optimizer", "lora", "training"]


def test_the_commands_in_its_comments_can_be_pasted_into_a_shell(folder: Path) -> None:
    found = draft(folder, write_table(folder / "data.parquet", text=SENTENCES), "my file.yaml")
    assert "#   entrenar train 'my file.yaml'\n" in found.text


# -- what cannot be drafted -----------------------------------------------------------------------------------------


def test_a_tie_shows_the_choices_and_the_answer_settles_it(folder: Path) -> None:
    data = write_table(folder / "data.parquet", body=SENTENCES, summary=SENTENCES)
    with pytest.raises(TaskError, match="several choices of columns fit") as raised:
        draft(folder, data)
    for choice in raised.value.candidates:
        found = draft(folder, data, task=str(choice.task), columns=choice.columns)
        assert (found.config.data.task, found.config.data.columns) == (str(choice.task), choice.columns)
        validated(found, folder)


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ({"task": "sft"}, ConfigError, 'data.task: value "sft"'),
        ({"columns": {"promt": "text"}}, ConfigError, "did you mean prompt"),
        ({"columns": {"text": "txt"}}, DataError, "there is no column 'txt'"),
        ({"task": "chat"}, DataError, "no columns for the task chat"),
    ],
)
def test_a_wrong_answer_is_explained(said: dict[str, Any], kind: type[Exception], message: str, folder: Path) -> None:
    data = write_table(folder / "data.parquet", text=SENTENCES)
    with pytest.raises(kind, match=message):
        draft(folder, data, **said)


def test_a_missing_file_is_no_matter_of_tasks(folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as raised:
        draft(folder, folder / "absent.parquet")
    assert not isinstance(raised.value, TaskError)
    (folder / "base.gguf").unlink()
    with pytest.raises(FormatError, match="no such file"):
        draft(folder, folder / "absent.parquet")


def test_a_teacher_gets_a_section_and_the_command_that_uses_it(folder: Path) -> None:
    write_base(folder / "big.gguf", base_spec(num_layers=4))
    data = write_table(folder / "data.parquet", **TASKS["text"])
    found = draft(folder, data, teacher=str(folder / "big.gguf"))
    assert found.config.distill is not None
    assert found.config.distill.teacher == str(folder / "big.gguf")
    assert "entrenar distill config.yaml --dry-run" in found.text
    assert "llama, 4 layers of 32" in found.text
    checked = validated(found, folder)
    assert checked.distill is not None


def test_a_teacher_of_classes_is_refused(folder: Path) -> None:
    data = write_table(folder / "data.parquet", **TASKS["classification"])
    with pytest.raises(ConfigError, match="classification trains a head of its own"):
        draft(folder, data, teacher=str(folder / "base.gguf"))
