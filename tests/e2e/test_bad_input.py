"""Bad input gets one clear message and exit code 2, and nothing is written; what trains, plans and checks agrees."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.gguf.values import MetadataValue
from entrenar_core.lora.files import AdapterPair, write_adapter
from tests.e2e.command import Outcome, call, entrenar, tree
from tests.model.tiny import lively_weights
from tests.stages.tiny_base import base_spec, write_base, write_config, write_data

LONG = [f"This is a rather long text about the things of number {number}" for number in range(20)]
INSTRUCTION = {"instruction": "prompt", "output": "completion"}
GENERATE = ("generate", "base.gguf", "--max-tokens", "2", "--prompt")


@dataclass(frozen=True)
class Case:
    """How to spoil the good input, what is typed then, and what the message must say.

    The folder holds ``base.gguf``, ``train.parquet`` and ``config.yaml``, and is the current one.
    """

    name: str
    spoil: Callable[[Path], Any]
    says: tuple[str, ...]
    arguments: tuple[str, ...] = ("train", "config.yaml")
    seen_when_tokenized: bool = False

    @property
    def is_seen_before_a_run(self) -> bool:
        return self.arguments[0] == "train" and not any("resume" in argument for argument in self.arguments)


def sections(**changed: Any) -> Callable[[Path], Any]:
    return lambda folder: write_config(folder, **changed)


def entry(key: str, value: str) -> Callable[[Path], Any]:
    return lambda folder: write_base(folder / "base.gguf", extra=[(key, MetadataValue.string(value))])


def content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def table(**columns: list[Any]) -> Callable[[Path], Any]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "train.parquet")


def move_last_tensor_out_of_the_file(data: bytes) -> bytes:
    """The offset stands in the header behind name, axes, sizes and type."""
    name = b"output.weight"
    place = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 2 * 8 + 4
    return data[:place] + struct.pack("<Q", 1 << 40) + data[place + 8 :]


def adapter_of_another_architecture(folder: Path) -> None:
    pair = AdapterPair(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32), 1.0)
    write_adapter(folder / "adapter.gguf", "qwen2", {"blk.0.attn_q.weight": pair}, 2.0)


def chat_without_a_template(folder: Path) -> None:
    write_base(folder / "base.gguf", without=("tokenizer.chat_template",))
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    pq.write_table(pa.table({"messages": [turns]}), folder / "train.parquet")


def sources_for_different_heads(folder: Path) -> None:
    pq.write_table(pa.table({"review": LONG, "label": ["good", "bad"] * 10}), folder / "b.parquet")
    write_config(folder, data={"train": [str(folder / "train.parquet"), str(folder / "b.parquet")]})


def a_class_that_only_the_validation_data_have(folder: Path) -> None:
    pq.write_table(pa.table({"review": LONG, "label": ["good", "bad"] * 10}), folder / "train.parquet")
    pq.write_table(pa.table({"review": LONG[:2], "label": ["good", "ugly"]}), folder / "val.parquet")
    write_config(folder, data={"val": str(folder / "val.parquet")})


def nothing(folder: Path) -> None:
    del folder


CASES = [
    Case("missing GGUF", lambda folder: (folder / "base.gguf").unlink(), ("base.gguf", "no such file")),
    Case("truncated GGUF", content("base.gguf", lambda data: data[:-5000]), ("base.gguf", "truncated")),
    Case("GGUF cut in its header", content("base.gguf", lambda data: data[:700]), ("base.gguf",)),
    Case("empty GGUF", content("base.gguf", lambda _: b""), ("base.gguf", "0 bytes")),
    Case("wrong magic", content("base.gguf", lambda data: b"GGML" + data[4:]), ("base.gguf", "GGUF")),
    Case("tensor out of bounds", content("base.gguf", move_last_tensor_out_of_the_file), ("tensor output.weight",)),
    Case("unknown architecture", entry("general.architecture", "mamba"), ("'mamba'", "llama, qwen2, qwen3")),
    Case("unknown pre", entry("tokenizer.ggml.pre", "klingon"), ("klingon", "base.gguf")),
    Case(
        "missing column",
        sections(data={"prompt": "promt", "completion": "completion"}),
        ("'promt'", "did you mean 'prompt'", "prompt (text), completion (text)"),
    ),
    Case("columns nobody can guess", table(a=[1, 2], b=[3, 4]), ("train.parquet", "a", "b")),
    Case("empty data set", table(prompt=pa.array([], pa.string()), completion=pa.array([], pa.string())), ("no rows",)),
    Case("an empty column", table(prompt=["a"], completion=[""]), ("column 'completion' is empty", "train.parquet")),
    Case(
        "nothing to learn",
        sections(data={"seq_len": 2}),
        ("all 20 rows were refused", "raise data.seq_len", "train.parquet"),
        seen_when_tokenized=True,
    ),
    Case(
        "several texts",
        table(body=LONG, summary=LONG),
        ("several choices of columns fit", "columns: {text: body}", "columns: {prompt: body, completion: summary}"),
    ),
    Case("one class", table(review=LONG, label=["good"] * 20), ("column 'label' never changes", "train.parquet")),
    Case(
        "a chat for a model without a template",
        chat_without_a_template,
        ("the model has no chat template", "set data.chat_template", "chatml"),
    ),
    Case(
        "a template that is none",
        sections(data={"chat_template": "chatlm", "task": "instruction", "columns": INSTRUCTION}),
        ("there is no chat template 'chatlm'", "did you mean chatml?"),
    ),
    Case("sources for different heads", sources_for_different_heads, ("these sources cannot go together", "b.parquet")),
    Case(
        "a class that only the validation data have",
        a_class_that_only_the_validation_data_have,
        ("val.parquet, row 2", "the label 'ugly' is not among the classes of the training data: bad, good"),
    ),
    Case("not a parquet", content("train.parquet", lambda _: b"prompt,completion\na,b\n"), ("not a parquet file",)),
    Case("cut parquet", content("train.parquet", lambda data: data[:-7]), ("truncated", "train.parquet")),
    Case("missing parquet", lambda folder: (folder / "train.parquet").unlink(), ("train.parquet", "does not exist")),
    Case("unknown key", sections(optimizer={"learning_rate": 1e-3}), ("config.yaml:", "optimizer.lr", "unknown key")),
    Case("out of range", sections(lora={"rank": 0}), ("config.yaml:", "lora.rank", "value 0")),
    Case("invalid UTF-8", content("config.yaml", lambda data: data + b"# \xff\xfe\n"), ("config.yaml", "UTF-8")),
    Case(
        "a target that is none",
        sections(lora={"target_modules": ["q_prj"]}),
        ("lora.target_modules", "q_prj", "q_proj"),
    ),
    Case("a target outside the blocks", sections(lora={"target_modules": ["lm_head"]}), ("lm_head", "q_proj")),
    Case("window over context", sections(data={"seq_len": 1000}), ("seq_len is 1000", "64")),
    Case("a file in the way", lambda folder: (folder / "run").write_text("mine"), ("run is a file, not a folder",)),
    Case(
        "output over the base",
        sections(model={"path": "model.gguf"}, training={"output_dir": "."}),
        ("model.gguf", "would write over it"),
    ),
    Case("nothing to resume", nothing, ("no checkpoint", "without --resume"), ("train", "config.yaml", "--resume")),
    Case(
        "resume from nowhere", nothing, ("there is no checkpoint here",), ("train", "config.yaml", "--resume-from", "x")
    ),
    Case("no configuration", nothing, ("none.yaml", "cannot read"), ("train", "none.yaml")),
    Case(
        "wrong override",
        nothing,
        ("--set training.max_stepz", "max_steps"),
        (
            "train",
            "config.yaml",
            "--set",
            "training.max_stepz=3",
        ),
    ),
    Case(
        "adapter of another architecture",
        adapter_of_another_architecture,
        ("qwen2", "llama"),
        (
            *GENERATE,
            "Ada",
            "--adapter",
            "adapter.gguf",
        ),
    ),
    Case("a model as adapter", nothing, ("not a LoRA adapter",), (*GENERATE, "Ada", "--adapter", "base.gguf")),
    Case("empty prompt", nothing, ("the prompt is empty",), (*GENERATE, "")),
    Case("prompt over context", nothing, ("context of 64",), (*GENERATE, "b" * 100)),
    Case("temperature", nothing, ("temperature is -1",), (*GENERATE, "Ada", "--temperature", "-1")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    write_base(tmp_path / "model.gguf")
    write_data(tmp_path)
    write_config(tmp_path)
    return tmp_path


def assert_refused(done: Outcome, *says: str, code: int = 2) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.count("error:") == 1
    assert "Traceback" not in done.err
    for text in says:
        assert text in done.err


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_bad_input_is_refused_and_nothing_is_written(case: Case, folder: Path) -> None:
    case.spoil(folder)
    before = tree(folder)
    done = call(*case.arguments, cwd=folder)
    assert_refused(done, *case.says)
    if case.is_seen_before_a_run:
        planned = call(*case.arguments, "--dry-run", cwd=folder)
        checked = call("validate", *case.arguments[1:], cwd=folder)
        assert complaint(planned) == complaint(done)
        assert complaint(checked) == ((0, "") if case.seen_when_tokenized else complaint(done))
    assert tree(folder) == before


def complaint(done: Outcome) -> tuple[int, str]:
    """The exit code and the error, without what was said before it."""
    _, mark, text = done.err.partition("error: ")
    return done.code, mark + text


@pytest.mark.parametrize("name", ["missing GGUF", "missing column", "wrong override"])
def test_it_is_refused_in_a_shell_too(name: str, folder: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    case.spoil(folder)
    before = tree(folder)
    assert_refused(entrenar(*case.arguments, cwd=folder), *case.says)
    assert tree(folder) == before


def test_a_second_run_and_a_changed_one_are_refused(folder: Path) -> None:
    assert call("train", "config.yaml", "--set", "training.save_every=1", cwd=folder).code == 0
    before = tree(folder)
    assert_refused(call("train", "config.yaml", cwd=folder), "checkpoints of an earlier run", "--resume")
    changed = call("train", "config.yaml", "--resume", "--set", "optimizer.lr=0.5", cwd=folder)
    assert_refused(changed, "belongs to another run", "optimizer.lr: 0.01 -> 0.5")
    write_base(folder / "base.gguf", replaced={"output_norm.weight": np.full(32, 2.0, np.float32)})
    assert_refused(call("train", "config.yaml", "--resume", cwd=folder), "belongs to another run", "model (content)")
    del before["base.gguf"]
    assert {name: found for name, found in tree(folder).items() if name != "base.gguf"} == before


def test_nan_in_the_base_names_the_op_that_made_it(folder: Path) -> None:
    weights = lively_weights(base_spec())["blk.1.ffn_up.weight"]
    weights[3, 4] = np.nan
    write_base(folder / "base.gguf", replaced={"blk.1.ffn_up.weight": weights})
    done = call("train", "config.yaml", cwd=folder)
    assert_refused(done, "the loss at step 1 is nan", "at blk.1.ffn_up", "the base model is damaged", code=1)
    assert not list((folder / "run").glob("*.gguf"))
    assert not (folder / "run" / "checkpoints").exists()


def test_errors_are_one_json_line_for_scripts(folder: Path) -> None:
    (folder / "train.parquet").unlink()
    done = call("train", "config.yaml", "--json", cwd=folder)
    (event,) = done.events()
    assert (done.code, event["event"], event["kind"], event["exit_code"]) == (2, "error", "DataError", 2)
    assert event["where"].endswith("train.parquet")
    assert done.err == ""
