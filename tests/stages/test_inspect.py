"""What `inspect` finds out about files and folders, each made by the code or library that usually makes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from entrenar_core.data.tasks import Task
from entrenar_core.errors import FormatError
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.head_file import write_head
from entrenar_core.model.heads import HeadSpec, new_head
from entrenar_core.stages.data_facts import DataFacts
from entrenar_core.stages.gguf_facts import AdapterFacts, HeadFacts, ModelFacts, OtherGGUF, SpecialToken
from entrenar_core.stages.inspect import inspect_path
from entrenar_core.stages.inspect_peft import PeftFacts
from entrenar_core.stages.inspect_run import CheckpointFacts, RunFacts
from entrenar_core.train.checkpoint import MODEL
from tests.stages.tiny_base import base_spec, model_on_cpu, train, vocab_size, write_base


@pytest.fixture
def run(folder: Path) -> Path:
    """A finished run: LoRA of rank 4, three steps."""
    train(folder)
    return folder / "run"


def text(value: str) -> MetadataValue:
    return MetadataValue.string(value)


def test_a_model_is_described_by_its_header(tmp_path: Path) -> None:
    found = inspect_path(str(write_base(tmp_path / "base.gguf", type_name="F16")))
    assert isinstance(found, ModelFacts)
    assert (found.kind, found.architecture, found.name, found.obstacle) == ("model", "llama", "tiny", None)
    sizes = found.sizes
    assert (sizes.layers, sizes.hidden_size, sizes.intermediate_size, sizes.context_length) == (2, 32, 64, 64)
    assert (sizes.heads, sizes.kv_heads, sizes.head_dim) == (4, 2, 8)
    assert found.n_bytes == (tmp_path / "base.gguf").stat().st_size


def test_tensors_are_counted_by_type(tmp_path: Path) -> None:
    found = inspect_path(str(write_base(tmp_path / "base.gguf", type_name="Q8_0")))
    assert isinstance(found, ModelFacts)
    matrices, vectors = found.tensor_types
    assert (matrices.type, vectors.type) == ("Q8_0", "F32")
    assert matrices.n_bytes == matrices.values * 34 // 32
    assert (vectors.tensors, vectors.values) == (5, 5 * 32)
    assert found.parameters == matrices.values + vectors.values


def test_special_tokens_come_with_their_text(tmp_path: Path) -> None:
    found = inspect_path(str(write_base(tmp_path / "base.gguf")))
    assert isinstance(found, ModelFacts)
    assert found.tokenizer is not None
    assert found.tokenizer.vocab_size == vocab_size()
    assert SpecialToken("eos", 0, "<|endoftext|>") in found.tokenizer.special


def test_a_special_token_outside_the_vocabulary_has_no_text(tmp_path: Path) -> None:
    extra = [("tokenizer.ggml.padding_token_id", MetadataValue.uint32(999_999))]
    found = inspect_path(str(write_base(tmp_path / "base.gguf", extra=extra)))
    assert isinstance(found, ModelFacts)
    assert found.tokenizer is not None
    assert SpecialToken("padding", 999_999, None) in found.tokenizer.special


def test_chat_templates_are_listed_by_name(tmp_path: Path) -> None:
    extra = [("tokenizer.chat_template.tool_use", text("\n\n{% set a = 1 %}\nmore"))]
    found = inspect_path(str(write_base(tmp_path / "base.gguf", extra=extra)))
    assert isinstance(found, ModelFacts)
    assert {one.name: one.first_line for one in found.chat_templates} == {
        "default": "{% for m in messages %}{{ m.content }}",
        "tool_use": "{% set a = 1 %}",
    }


def test_a_model_that_cannot_be_trained_is_shown_with_the_reason(tmp_path: Path) -> None:
    extra = [("general.architecture", text("mamba")), ("mamba.block_count", MetadataValue.uint32(7))]
    found = inspect_path(str(write_base(tmp_path / "base.gguf", extra=extra)))
    assert isinstance(found, ModelFacts)
    assert found.sizes.layers == 7
    assert found.sizes.heads is None
    assert found.obstacle is not None
    assert "mamba" in found.obstacle


def test_values_of_odd_types_are_passed_over(tmp_path: Path) -> None:
    per_layer = MetadataValue.array(ValueType.INT32, [4, 2])
    extra = [
        ("llama.attention.head_count", per_layer),
        ("general.name", MetadataValue.uint32(3)),
        ("entrenar.list", per_layer),
    ]
    found = inspect_path(str(write_base(tmp_path / "base.gguf", extra=extra)))
    assert isinstance(found, ModelFacts)
    assert (found.name, found.sizes.heads) == (None, None)
    assert found.provenance == {"entrenar.list": "list of 2"}


def test_an_adapter_says_rank_alpha_and_targets(run: Path) -> None:
    found = inspect_path(str(run / "adapter.gguf"))
    assert isinstance(found, AdapterFacts)
    assert (found.architecture, found.ranks, found.alpha) == ("llama", (4,), 8.0)
    assert set(found.targets) == {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
    }  # fmt: skip
    assert set(found.targets.values()) == {2}
    assert "entrenar.version" in found.provenance


def test_a_head_says_what_it_answers(tmp_path: Path) -> None:
    spec = HeadSpec(Task.CLASSIFICATION, ("no", "yes"), "body", "spam")
    write_head(tmp_path / "head.gguf", new_head(model_on_cpu(base_spec()), spec, 0))
    found = inspect_path(str(tmp_path / "head.gguf"))
    assert isinstance(found, HeadFacts)
    assert (found.task, found.classes) == ("classification", ("no", "yes"))
    assert (found.text_column, found.target_column) == ("body", "spam")


def test_other_gguf_files_show_their_keys(tmp_path: Path) -> None:
    entries = [("general.type", text("imatrix")), ("imatrix.chunk_count", MetadataValue.uint32(9))]
    tensor = encode_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 32), np.float32), "F32")
    write_gguf(tmp_path / "file.gguf", entries, [tensor])
    found = inspect_path(str(tmp_path / "file.gguf"))
    assert isinstance(found, OtherGGUF)
    assert (found.type, found.keys["imatrix.chunk_count"]) == ("imatrix", "9")
    assert found.tensor_types[0].tensors == 1


def test_a_checkpoint_says_where_the_run_was(run: Path) -> None:
    found = inspect_path(str(run / "checkpoints" / "step-000003"))
    assert isinstance(found, CheckpointFacts)
    assert (found.step, found.problem) == (3, None)
    assert found.train_loss is not None
    assert len(found.tensors) == 28
    assert found.tensors[0].name == "blk.0.attn_k.weight.lora_a"
    assert found.tensors[0].shape == (4, 32)
    assert found.config["lora.rank"] == "4"
    assert found.config["data.train"].endswith("train.parquet")


def test_a_torn_checkpoint_is_described_as_such(run: Path) -> None:
    weights = run / "checkpoints" / "step-000003" / MODEL
    weights.write_bytes(weights.read_bytes()[:-1])
    found = inspect_path(str(weights.parent))
    assert isinstance(found, CheckpointFacts)
    assert found.step == 3
    assert found.problem is not None
    assert MODEL in found.problem
    assert found.tensors == ()


def test_a_run_says_what_it_left_and_whether_it_can_go_on(run: Path) -> None:
    found = inspect_path(str(run))
    assert isinstance(found, RunFacts)
    assert (found.steps, found.checkpoints, found.resumable_from) == (3, (3,), 3)
    assert found.is_finished
    names = {file.name: file.n_bytes for file in found.files}
    assert names["model.gguf"] == (run / "model.gguf").stat().st_size
    assert found.problems == ()


def test_a_run_with_a_torn_checkpoint_says_so(run: Path) -> None:
    (run / "checkpoints" / "step-000003" / MODEL).unlink()
    found = inspect_path(str(run))
    assert isinstance(found, RunFacts)
    assert found.resumable_from is None
    assert len(found.problems) == 1
    assert "step-000003" in found.problems[0]


def test_the_best_loss_of_a_run_is_the_lowest_of_its_evaluations(tmp_path: Path) -> None:
    events = [{"event": "eval", "step": step, "loss": loss} for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0))]
    lines = [json.dumps(event) for event in events]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"event": "ev']))
    found = inspect_path(str(tmp_path))
    assert isinstance(found, RunFacts)
    assert (found.best_val_loss, found.best_step, found.val_loss) == (1.5, 2, 2.0)
    assert not found.is_finished


def test_a_peft_adapter_is_read_from_its_config(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"], "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": np.zeros(3, np.float32), "y": np.zeros(3, np.float32)}, tmp_path / "adapter_model.safetensors")
    found = inspect_path(str(tmp_path))
    assert isinstance(found, PeftFacts)
    assert (found.rank, found.alpha, found.targets) == (8, 16, ("q_proj", "v_proj"))
    assert (found.uses_rslora, found.uses_dora, found.tensors) == (True, False, 2)


def test_data_show_their_columns_and_the_task(tmp_path: Path) -> None:
    questions, answers = zip(*((f"What is {n} times two?", f"It is {2 * n}.") for n in range(50)), strict=True)
    columns = {"question": questions, "answer": answers}
    pq.write_table(pa.table({**columns, "id": list(range(50))}), tmp_path / "data.parquet")
    found = inspect_path(str(tmp_path / "data.parquet"))
    assert isinstance(found, DataFacts)
    assert (found.task, found.rows, found.undecided) == ("prompt_completion", 50, None)
    assert {one.name: one.role for one in found.columns} == {"question": "prompt", "answer": "completion", "id": None}
    assert found.columns[0].examples == questions[:3]


def test_values_that_python_cannot_hold_are_shown_all_the_same(tmp_path: Path) -> None:
    columns = {
        "when": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
        "late": pa.array([2**40], pa.timestamp("s")),
        "took": pa.array([1], pa.duration("ns")),
        "text": pa.array([b"caf\xe9"]).view(pa.string()),
        "deep": pa.StructArray.from_arrays([pa.array([1], pa.timestamp("ns"))], ["at"]),
        "list": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([b"caf\xe9"]).view(pa.string())),
    }
    with pa.ipc.new_file(str(tmp_path / "data.arrow"), (table := pa.table(columns)).schema) as writer:
        writer.write_table(table)
    found = inspect_path(str(tmp_path / "data.arrow"))
    assert isinstance(found, DataFacts)
    assert [one.examples for one in found.columns] == [
        ("2023-11-14 22:13:20.000000001",),
        ("1099511627776 s since 1970",),
        ("1 ns",),
        ("caf\ufffd",),
        ("{'at': '1970-01-01 00:00:00.000000001'}",),
        ("['caf\ufffd']",),
    ]


def test_a_tie_between_tasks_is_told_and_not_raised(tmp_path: Path) -> None:
    texts = [f"Some words, number {n}, and more." for n in range(20)]
    pq.write_table(pa.table({"first": texts, "second": texts[::-1]}), tmp_path / "data.parquet")
    found = inspect_path(str(tmp_path / "data.parquet"))
    assert isinstance(found, DataFacts)
    assert found.task is None
    assert found.undecided is not None
    assert "first" in found.undecided


def test_a_folder_of_data_is_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one two three"}\n')
    found = inspect_path(str(tmp_path))
    assert isinstance(found, DataFacts)
    assert found.format == "JSON"


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"hello", "notes.txt"), (b"\0\1\2", "blob")],
    ids=["text", "bytes"],
)
def test_what_is_of_no_known_kind_is_an_error_that_lists_the_kinds(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError) as caught:
        inspect_path(str(tmp_path / name))
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    for kind in ("GGUF", "parquet", "checkpoint", "run", "PEFT"):
        assert kind in caught.value.hint


def test_a_configuration_is_sent_to_validate(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {path: base.gguf}")
    with pytest.raises(FormatError) as caught:
        inspect_path(str(tmp_path / "config.yaml"))
    assert caught.value.hint is not None
    assert f"entrenar validate {tmp_path / 'config.yaml'}" in caught.value.hint


def test_a_wrong_name_gets_a_did_you_mean(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FormatError, match="no such file") as caught:
        inspect_path(str(tmp_path / "modle.gguf"))
    assert caught.value.hint == f"did you mean {tmp_path / 'model.gguf'}?"


def test_a_gguf_is_known_by_its_content_too(tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf").rename(tmp_path / "blob")
    assert isinstance(inspect_path(str(path)), ModelFacts)
