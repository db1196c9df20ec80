"""The train stage as a library: a config in, files out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.config.resolved import config_hash
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.events import Eval, Finished, Notice, RunStarted, Saved, Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import read_adapter
from entrenar_core.model.load import load_model
from entrenar_core.stages.train import run_training
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.stages import gguf_py
from tests.stages.tiny_base import NEW_MODEL, base_spec, config, train, write_base, write_config, write_data
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration


def logits_of(path: Path, tokens: np.ndarray) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return load_model(file, CpuBackend(1)).logits(tokens)


def test_a_lora_run_leaves_model_adapter_metrics_config_and_checkpoint(folder: Path) -> None:
    result, listener = train(folder)
    run = folder / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "adapter.gguf",
        "checkpoints",
        "config.resolved.yaml",
        "metrics.jsonl",
        "model.gguf",
    ]
    assert (result.model, result.adapter) == (run / "model.gguf", run / "adapter.gguf")
    assert (result.steps, result.reason) == (3, "all steps are done")
    assert [saved.kind for saved in listener.of(Saved)] == ["config", "checkpoint", "model", "adapter"]
    assert all(saved.path.exists() for saved in listener.of(Saved))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == listener.losses()
    assert load_config(run / "config.resolved.yaml") == config(folder)


def test_events_come_in_the_order_of_what_happens(folder: Path) -> None:
    _, listener = train(folder, data={"val": str(folder / "train.parquet")})
    kinds = [type(event) for event in listener.events if isinstance(event, (RunStarted, Step, Eval, Finished))]
    assert kinds == [RunStarted, Step, Step, Step, Eval, Finished]
    (started,) = listener.of(RunStarted)
    assert (started.total_steps, started.first_step, started.train_examples, started.val_examples) == (3, 0, 20, 20)


def test_lora_changes_only_its_targets(folder: Path) -> None:
    train(folder, lora={"target_modules": ["q_proj", "down_proj"]})
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(folder / "run" / "model.gguf")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"blk.{layer}.{module}.weight" for layer in (0, 1) for module in ("attn_q", "ffn_down")}


def test_full_fine_tuning_changes_everything_and_writes_no_adapter(folder: Path) -> None:
    result, _ = train(folder, lora=None)
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(folder / "run" / "model.gguf")
    assert [name for name in before if before[name] == after[name]] == []
    assert result.adapter is None
    assert not (folder / "run" / "adapter.gguf").exists()


def test_files_say_where_they_come_from(folder: Path) -> None:
    train(folder)
    for name in ("model.gguf", "adapter.gguf"):
        path = folder / "run" / name
        assert gguf_py.text(path, "entrenar.config_sha256") == config_hash(config(folder))
        for key in ("entrenar.version", "entrenar.base_sha256", "entrenar.data_digest"):
            assert gguf_py.text(path, key)
    before, after = gguf_py.raw_fields(folder / "base.gguf"), gguf_py.raw_fields(folder / "run" / "model.gguf")
    assert {key: after.get(key) for key in before} == before


def test_equal_runs_write_equal_bytes_wherever_they_write(folder: Path) -> None:
    train(folder, lora={"dropout": 0.2})
    train(folder, lora={"dropout": 0.2}, training={"output_dir": str(folder / "again")})
    for name in ("model.gguf", "adapter.gguf"):
        assert (folder / "run" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_another_seed_gives_another_adapter(folder: Path) -> None:
    train(folder)
    train(folder, training={"seed": 7, "output_dir": str(folder / "other")})
    assert gguf_py.raw_tensors(folder / "run" / "adapter.gguf") != gguf_py.raw_tensors(
        folder / "other" / "adapter.gguf"
    )


def test_the_merged_model_is_the_base_with_the_adapter(folder: Path) -> None:
    train(folder, lora={"rslora": True})
    run, name = folder / "run", "blk.1.attn_v.weight"
    pair = read_adapter(run / "adapter.gguf", "llama")[name]
    expected = gguf_py.values(folder / "base.gguf", name) + pair.delta()
    np.testing.assert_allclose(gguf_py.values(run / "model.gguf", name), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ({"merge_adapter": False}, {"adapter.gguf"}),
        ({"gguf": False}, {"adapter.gguf"}),
        ({"adapter": "none"}, {"model.gguf"}),
    ],
)
def test_only_the_results_that_are_asked_for_are_written(folder: Path, output: Any, files: set[str]) -> None:
    result, _ = train(folder, output=output)
    assert {path.name for path in (folder / "run").glob("*.gguf")} == files
    assert {path.name for path in (result.model, result.adapter) if path is not None} == files


def test_early_stopping_writes_the_best_weights_and_not_the_last(folder: Path) -> None:
    write_data(folder).rename(folder / "val.parquet")
    write_data(folder, text=True)
    _, listener = train(
        folder,
        lora=None,
        data={"train": str(folder / "train.parquet"), "val": str(folder / "val.parquet"), "text": None},
        optimizer={"lr": 0.03},
        training={"max_steps": 60, "eval_every": 2, "early_stopping": {"patience": 2}, "keep_last": 1},
        output={"type": "f32"},
    )
    evaluations = listener.evaluations()
    best = min(evaluations, key=lambda event: event.loss)
    (finished,) = listener.of(Finished)
    assert "did not improve in 2 evaluations" in finished.reason
    assert 0 < best.step < finished.steps < 60, "the test needs a loss that falls and then rises"
    trained = load_file(folder / "run" / "checkpoints" / f"step-{best.step:06d}" / "model.safetensors")
    for name, values in trained.items():
        np.testing.assert_array_equal(gguf_py.values(folder / "run" / "model.gguf", name), values)
    assert any(f"best checkpoint: step {best.step}" in notice.message for notice in listener.of(Notice))


def test_a_window_longer_than_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"seq_len is 65, but base\.gguf was made for 64 tokens"):
        train(folder, data={"seq_len": 65})
    assert not (folder / "run").exists()


def test_the_window_is_at_most_the_context(folder: Path) -> None:
    write_base(folder / "base.gguf", base_spec(context_length=8))
    _, listener = train(folder)
    assert any("longer than seq_len 8" in notice.message for notice in listener.of(Notice))


def test_a_held_out_share_is_validated_on_and_not_trained_on(folder: Path) -> None:
    _, listener = train(folder, data={"val_fraction": 0.25})
    (started,) = listener.of(RunStarted)
    assert (started.train_examples, started.val_examples) == (15, 5)


def test_epochs_become_steps(folder: Path) -> None:
    _, listener = train(folder, training={"max_steps": None, "epochs": 2, "grad_accum": 2})
    assert len(listener.of(Step)) == 6, "20 rows make 5 batches, and 3 steps of at most two"


def test_activation_checkpointing_changes_no_byte(folder: Path) -> None:
    train(folder, lora={"dropout": 0.3})
    other = {"activation_checkpointing": True, "output_dir": str(folder / "other")}
    train(folder, lora={"dropout": 0.3}, training=other)
    assert gguf_py.raw_tensors(folder / "run" / "model.gguf") == gguf_py.raw_tensors(folder / "other" / "model.gguf")


def test_a_target_that_is_no_module_is_refused_before_the_data_are_read(folder: Path) -> None:
    with pytest.raises((ConfigError, ModelError), match="qq_proj"):
        train(folder, lora={"target_modules": ["qq_proj"]}, data={"train": "absent.parquet"})


def test_lora_on_random_weights_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="lora needs a model to adapt"):
        train(folder, model=NEW_MODEL)


def test_the_configuration_is_a_file_like_any_other(folder: Path) -> None:
    path = write_config(folder)
    run_training(load_config(path), reporter=Listener())
    resolved = folder / "run" / "config.resolved.yaml"
    again = load_config(resolved, [f"training.output_dir={folder / 'again'}"])
    run_training(again, reporter=Listener())
    assert (folder / "again" / "adapter.gguf").read_bytes() == (folder / "run" / "adapter.gguf").read_bytes()


def test_the_trained_model_computes_what_the_file_says(folder: Path) -> None:
    _, listener = train(folder, lora=None, training={"max_steps": 40}, data={"val": str(folder / "train.parquet")})
    with GGUFFile.open(folder / "run" / "model.gguf") as file:
        tokenizer = tokenizer_from_metadata(file.metadata, "model")
    ids = np.asarray([tokenizer.encode("Ada saw a red ball.\nIt was Ada's red ball.")], np.int32)
    before, after = logits_of(folder / "base.gguf", ids), logits_of(folder / "run" / "model.gguf", ids)

    def log_likelihood(logits: np.ndarray) -> float:
        shifted = logits[0, :-1] - logits[0, :-1].max(-1, keepdims=True)
        return float(
            (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[np.arange(ids.size - 1), ids[0, 1:]].sum()
        )

    assert log_likelihood(after) > log_likelihood(before) + 10
    assert listener.evaluations()[-1].loss < 2.0
