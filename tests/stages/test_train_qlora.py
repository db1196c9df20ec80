"""Whole runs with a base in few bits and a merge: the example of the seed, and what is left on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.config.load import load_config
from entrenar_core.errors import ModelError
from entrenar_core.events import Notice, RunStarted
from entrenar_core.lora.files import read_adapter
from entrenar_core.stages.train import RunResult, run_training
from tests.model.tiny import lively_weights
from tests.stages import gguf_py
from tests.stages.tiny_base import base_spec, config, train, write_base, write_data
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration

Q, UP = "blk.0.attn_q.weight", "blk.1.ffn_up.weight"

SEED_EXAMPLE = """
model:      {path: base.gguf, layers: [q_proj, k_proj, v_proj, o_proj]}
data:       {train: train.parquet, batch_size: 8, auto_infer_types: true}
optimizer:  {name: adam, lr: 1e-4}
lora:       {rank: 64, alpha: 16}
quantize:   {bits: 4, symmetric: true}
merge:      {method: TIES, density: 0.2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf", type_name="F16")
    return tmp_path


def adapter_delta(result: RunResult, name: str) -> np.ndarray:
    assert result.adapter is not None
    return read_adapter(result.adapter, "llama")[name].delta()


def rounded(base: Path, name: str, type_name: str) -> np.ndarray:
    codec = codec_for(type_name)
    return codec.decode(codec.encode(np.ascontiguousarray(gguf_py.values(base, name))))


def test_the_example_of_the_seed_runs_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("config.yaml").write_text(SEED_EXAMPLE)
    listener = Listener()
    result = run_training(load_config(Path("config.yaml")), reporter=listener)
    assert result.steps > 0
    assert result.model is not None
    assert gguf_py.types(result.model) == gguf_py.types(folder / "base.gguf")
    delta = adapter_delta(result, Q)
    added = gguf_py.values(result.model, Q) - rounded(folder / "base.gguf", Q, "Q4_0")
    trimmed = np.where(np.abs(delta) >= np.sort(np.abs(delta).ravel())[-int(0.2 * delta.size)], delta, 0)
    np.testing.assert_allclose(added, trimmed, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_written_model_is_the_one_that_was_trained(folder: Path, bits: int) -> None:
    result, listener = train(folder, quantize={"bits": bits}, output={"type": "f32"})
    assert result.model is not None
    type_name = {4: "Q4_0", 8: "Q8_0"}[bits]
    expected = rounded(folder / "base.gguf", Q, type_name) + adapter_delta(result, Q)
    np.testing.assert_allclose(gguf_py.values(result.model, Q), expected, atol=1e-6)
    (started,) = listener.of(RunStarted)
    pairs = read_adapter(result.model.with_name("adapter.gguf"), "llama").values()
    adapters = sum(pair.a.size + pair.b.size for pair in pairs)
    assert started.trainable_parameters == adapters
    assert started.parameters == adapters + sum(array.size for array in lively_weights(base_spec()).values())


def test_a_base_whose_values_are_rounded_already_gives_the_same_run(folder: Path) -> None:
    write_base(folder / "base.gguf")
    names = [name for name, array in lively_weights(base_spec()).items() if array.ndim == 2]
    types = dict.fromkeys(names, "Q4_0") | {"output.weight": "Q8_0"}
    replaced = {name: rounded(folder / "base.gguf", name, type_name) for name, type_name in types.items()}
    once, _ = train(folder, quantize={"bits": 4})
    write_base(folder / "base.gguf", replaced=replaced)
    twice, _ = train(folder, quantize={"bits": 4}, training={"output_dir": str(folder / "again")})
    dense, _ = train(folder, training={"output_dir": str(folder / "dense")})
    assert once.train_loss == twice.train_loss
    assert dense.train_loss == pytest.approx(once.train_loss, rel=1e-5)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0"])
def test_a_base_in_blocks_stays_in_them_without_a_section(folder: Path, type_name: str) -> None:
    write_base(folder / "base.gguf", type_name=type_name)
    packed, _ = train(folder)
    asked, _ = train(folder, quantize={"type": type_name.lower()}, training={"output_dir": str(folder / "asked")})
    weights = {name: gguf_py.values(folder / "base.gguf", name) for name in lively_weights(base_spec())}
    write_base(folder / "base.gguf", replaced=weights)
    dense, _ = train(folder, training={"output_dir": str(folder / "dense")})
    assert packed.train_loss == asked.train_loss
    assert packed.train_loss == pytest.approx(dense.train_loss, rel=1e-5)
    for name, pair in read_adapter(packed.adapter or Path(), "llama").items():
        expected = read_adapter(dense.adapter or Path(), "llama")[name].delta()
        assert np.linalg.norm(pair.delta() - expected) <= 1e-4 * np.linalg.norm(expected)


def test_matrices_without_an_adapter_of_a_base_in_blocks_are_copied(folder: Path) -> None:
    write_base(folder / "base.gguf", type_name="Q4_0")
    result, _ = train(folder, quantize={"bits": 4}, lora={"target_modules": ["q_proj"]})
    assert result.model is not None
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(result.model)
    assert [name for name in before if before[name] != after[name]] == [Q, "blk.1.attn_q.weight"]


def test_a_resumed_run_over_a_packed_base_writes_the_same_bytes(folder: Path) -> None:
    sections: dict[str, Any] = {"quantize": {"bits": 4}, "merge": {"method": "ties", "density": 0.5}}
    whole, _ = train(folder, training={"max_steps": 4, "save_every": 2}, **sections)
    assert whole.model is not None
    expected = whole.model.read_bytes()
    whole.model.unlink()
    checkpoint = folder / "run" / "checkpoints" / "step-000002"
    resumed = run_training(
        config(folder, training={"max_steps": 4, "save_every": 2}, **sections),
        resume_from=checkpoint,
        reporter=Listener(),
    )
    assert resumed.model is not None
    assert resumed.model.read_bytes() == expected


def test_a_model_is_merged_with_the_trained_one(folder: Path) -> None:
    theirs = lively_weights(base_spec(), seed=1)[UP]
    other = write_base(folder / "other.gguf", replaced={UP: theirs})
    write_base(folder / "base.gguf")
    result, _ = train(
        folder,
        lora={"target_modules": ["q_proj"]},
        merge={"method": "task_arithmetic", "models": [{"path": str(other), "weight": 0.5}]},
    )
    assert result.model is not None
    base = lively_weights(base_spec())
    np.testing.assert_allclose(gguf_py.values(result.model, UP), (base[UP] + theirs) / 2, atol=1e-6)
    np.testing.assert_allclose(gguf_py.values(result.model, Q), base[Q] + adapter_delta(result, Q), atol=1e-6)


def test_full_fine_tuning_is_merged_too(folder: Path) -> None:
    write_base(folder / "base.gguf")
    plain, _ = train(folder, lora=None, training={"output_dir": str(folder / "plain")})
    merged, _ = train(folder, lora=None, merge={"method": "ties", "density": 0.25})
    assert plain.model is not None
    assert merged.model is not None
    base = lively_weights(base_spec())
    for name in (Q, "output_norm.weight"):
        change = gguf_py.values(plain.model, name) - base[name]
        kept = gguf_py.values(merged.model, name) - base[name]
        assert np.count_nonzero(kept) == int(0.25 * change.size)
        np.testing.assert_allclose(kept[kept != 0], change[kept != 0], atol=1e-6)


def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(folder: Path) -> None:
    other = write_base(folder / "other.gguf", base_spec(intermediate_size=96))
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_gate\.weight has shape"):
        train(folder, merge={"method": "ties", "models": [str(other)]})
    assert not (folder / "run").exists()


def test_a_base_in_other_blocks_is_quantized_again_only_if_that_is_allowed(folder: Path) -> None:
    write_base(folder / "base.gguf", type_name="Q8_0")
    kept, listener = train(folder, quantize={"bits": 4})
    assert any("stay as they are: 16 of Q8_0" in notice.message for notice in listener.of(Notice))
    again, listener = train(
        folder,
        quantize={"bits": 4, "allow_requantize": True},
        training={"output_dir": str(folder / "again")},
        output={"type": "f32"},
    )
    assert any("quantized again" in notice.message for notice in listener.of(Notice))
    assert again.train_loss != kept.train_loss
    assert again.model is not None
    codec = codec_for("Q4_0")
    halved = codec.decode(codec.encode(np.ascontiguousarray(gguf_py.values(folder / "base.gguf", Q))))
    np.testing.assert_allclose(gguf_py.values(again.model, Q), halved + adapter_delta(again, Q), atol=1e-6)
