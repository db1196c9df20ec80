"""Whole runs with quantized weights: the file that is written decodes to the very weights of the last forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.load import load_config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Eval, Notice, QuantizationStarted, SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import load_model
from entrenar_core.quant import fake
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import load_datasets, open_data
from entrenar_core.stages.predict import PredictionSettings, run_predict
from entrenar_core.stages.train import RunResult, run_training
from entrenar_core.train.evaluate import mean_loss
from tests.stages import gguf_py
from tests.stages.tiny_base import NEW_MODEL, base_spec, config, stories, train, write_base, write_data
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration

Q, UP, EMBED, HEAD = "blk.0.attn_q.weight", "blk.1.ffn_up.weight", "token_embd.weight", "output.weight"
Seen = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf", type_name="F16")
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """By name, the values that products saw when each weight was last rounded."""
    found: Seen = {}
    real = fake.FakeQuantizer.rounded

    def watching(self: fake.FakeQuantizer, *arguments: Any) -> Any:
        rounded = real(self, *arguments)
        found[self.name] = np.array(rounded.values)
        return rounded

    monkeypatch.setattr(fake.FakeQuantizer, "rounded", watching)
    return found


def qat(folder: Path, **sections: Any) -> tuple[RunResult, Listener]:
    """A run of three steps that is evaluated at its end."""
    quantize = {"stage": "qat", **sections.pop("quantize", {"type": "q4_0", "pure": True})}
    data = {"val": str(folder / "train.parquet"), **sections.pop("data", {})}
    return train(folder, quantize=quantize, data=data, **sections)


def file_loss(folder: Path, path: Path, **sections: Any) -> float:
    """The validation loss of a written file, computed as any other model's."""
    settings = config(folder, data={"val": str(folder / "train.parquet")}, lora=None, **sections)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"path": str(path)})})
    base = open_base(settings, SilentReporter())
    opened = open_data(settings, base, SilentReporter())
    data = load_datasets(settings, base, opened, SilentReporter())
    assert base.file is not None
    backend = CpuBackend(1)
    found = mean_loss(load_model(base.file, backend), data.val_loader)
    assert found is not None
    data.close()
    base.close()
    backend.close()
    return found.loss


SHORT = {"rows": 4, "seq_len": 16}
"""A calibration of a moment."""

TYPES: dict[str, dict[str, Any]] = {
    "q4_0": {"type": "q4_0", "pure": True},
    "q8_0": {"type": "q8_0"},
    "q4_1": {"bits": 4, "symmetric": False, "pure": True},
    "mixed": {
        "type": "q4_0",
        "output_type": "q8_0",
        "embedding_type": "q5_0",
        "tensor_types": {"attn_v": "q8_0", r"blk\.1\.ffn": "q5_1", "attn_output": "bf16"},
    },
    "clipped": {"type": "q4_0", "pure": True, "qat": {"gradient": "clipped"}},
    "by rows": {"type": "q4_0", "pure": True, "granularity": "per_channel"},
    "by tensors": {"type": "q8_0", "granularity": "per_tensor"},
    "weighed": {"type": "q4_0", "pure": True, "calibration": SHORT},
    "weighed tensors": {
        "type": "q4_1",
        "pure": True,
        "granularity": "per_tensor",
        "calibration": {**SHORT, "method": "percentile", "percentile": 99.0},
    },
}


@pytest.mark.parametrize("lora", [None, {"rslora": True}], ids=["full", "lora"])
@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_file_decodes_to_the_weights_of_the_last_forward_pass(
    folder: Path, seen: Seen, kind: str, tied: bool, lora: dict[str, Any] | None
) -> None:
    write_base(folder / "base.gguf", base_spec(tie_embeddings=tied), type_name="F16")
    result, listener = qat(folder, quantize=TYPES[kind], lora=lora, training={"threads": 2})
    assert result.model is not None
    types = gguf_py.types(result.model)
    matrices = {name for name in types if name.endswith("weight") and "norm" not in name}
    assert seen.keys() == matrices
    for name, values in seen.items():
        np.testing.assert_array_equal(gguf_py.values(result.model, name), values, err_msg=name)
    assert listener.evaluations()[-1].loss == file_loss(folder, result.model)
    if kind == "mixed":
        expected = {Q: "Q4_0", "blk.0.attn_v.weight": "Q8_0", UP: "Q5_1", "blk.1.attn_output.weight": "BF16"}
        assert {name: types[name] for name in expected} == expected
        assert (types[EMBED], types.get(HEAD)) == (("Q5_0", None) if tied else ("Q5_0", "Q8_0"))


@pytest.mark.parametrize("mix", ["q4_k_m", "q6_k"])
def test_rows_that_do_not_fit_are_trained_in_the_type_that_they_fall_back_to(
    folder: Path, seen: Seen, mix: str
) -> None:
    write_base(folder / "base.gguf", base_spec(intermediate_size=48), type_name="F16")
    result, listener = qat(folder, quantize={"type": mix, "tensor_types": {"attn_k": "q5_1"}}, lora=None)
    assert result.model is not None
    types = gguf_py.types(result.model)
    assert types["blk.0.ffn_down.weight"] == "F16", "rows of 48 values fit no blocks"
    assert types[Q] == {"q4_k_m": "Q5_0", "q6_k": "Q8_0"}[mix]
    for name, values in seen.items():
        np.testing.assert_array_equal(gguf_py.values(result.model, name), values, err_msg=name)
    assert listener.evaluations()[-1].loss == file_loss(folder, result.model)


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_k_types_are_trained_in(folder: Path, seen: Seen, lora: dict[str, Any] | None) -> None:
    spec = base_spec(hidden_size=256, num_heads=4, num_kv_heads=2, head_dim=64, rope_dimensions=64, num_layers=1)
    write_base(folder / "base.gguf", replace(spec, intermediate_size=256), type_name="F16")
    result, listener = qat(
        folder, quantize={"type": "q4_k_m", "qat": {"gradient": "clipped"}}, lora=lora, training={"max_steps": 2}
    )
    assert result.model is not None
    assert {"Q4_K", "Q6_K"} <= set(gguf_py.types(result.model).values())
    for name, values in seen.items():
        np.testing.assert_array_equal(gguf_py.values(result.model, name), values, err_msg=name)
    assert listener.evaluations()[-1].loss == file_loss(folder, result.model)


def test_a_base_of_few_bits_is_trained_in_its_types(folder: Path, seen: Seen) -> None:
    """What training does not touch and has its type already is copied and never rounded again."""
    write_base(folder / "base.gguf", type_name="Q4_0")
    result, listener = qat(folder, lora={"target_modules": ["q_proj"]})
    assert result.model is not None
    before, after = gguf_py.raw_tensors(folder / "base.gguf"), gguf_py.raw_tensors(result.model)
    assert [name for name in before if before[name] != after[name]] == [Q, "blk.1.attn_q.weight"]
    assert seen.keys() == {Q, "blk.1.attn_q.weight"}
    assert listener.evaluations()[-1].loss == file_loss(folder, result.model)


def test_a_new_model_is_trained_in_few_bits(folder: Path, seen: Seen) -> None:
    result, _ = qat(folder, model=NEW_MODEL, lora=None)
    assert result.model is not None
    assert gguf_py.types(result.model)[Q] == "Q4_0"
    for name, values in seen.items():
        np.testing.assert_array_equal(gguf_py.values(result.model, name), values, err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (["q_proj", "ffn_up"], {"attn_q", "ffn_up"}),
        (["embed"], {"token_embd"}),
        (["head"], {"output"}),
    ],
)
def test_only_chosen_layers_are_quantized_and_the_rest_is_written_exactly(
    folder: Path, seen: Seen, tied: bool, layers: list[str], chosen: set[str]
) -> None:
    write_base(folder / "base.gguf", base_spec(tie_embeddings=tied), type_name="F16")
    result, listener = qat(folder, quantize={"type": "q4_0", "pure": True, "qat": {"layers": layers}}, lora=None)
    assert result.model is not None
    if tied and chosen == {"output"}:
        chosen = {"token_embd"}
    types = gguf_py.types(result.model)
    assert {name.split(".")[-2] for name in seen} == chosen
    assert {name for name, kind in types.items() if kind == "Q4_0"} == seen.keys()
    assert {kind for name, kind in types.items() if name not in seen} == {"F32"}
    assert listener.evaluations()[-1].loss == file_loss(folder, result.model)


def test_untouched_matrices_outside_the_chosen_layers_stay_as_they_are(folder: Path) -> None:
    result, _ = qat(
        folder,
        quantize={"type": "q4_0", "qat": {"layers": ["v_proj"]}},
        lora={"target_modules": ["q_proj", "v_proj"]},
    )
    assert result.model is not None
    types = gguf_py.types(result.model)
    assert (types["blk.0.attn_v.weight"], types[Q], types[UP]) == ("Q4_0", "F32", "F16")


def test_a_layer_that_is_no_module_is_refused_with_the_ones_that_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown module 'qproj'") as caught:
        qat(folder, quantize={"type": "q4_0", "qat": {"layers": ["qproj"]}}, model={"path": "absent.gguf"})
    assert caught.value.where == "quantize.qat.layers"
    assert caught.value.hint is not None
    assert "did you mean 'q_proj'?" in caught.value.hint
    assert "down_proj, embed, head" in caught.value.hint


# warm-up


def test_the_first_steps_are_those_of_a_run_without_quantization(folder: Path) -> None:
    plain, heard = train(folder, training={"max_steps": 6, "output_dir": str(folder / "plain")})
    quantize = {"type": "q4_0", "pure": True, "qat": {"warmup": 4}}
    _, listener = qat(folder, quantize=quantize, training={"max_steps": 6, "eval_every": 2})
    assert plain.steps == 6
    assert listener.losses()[:4] == heard.losses()[:4]
    assert listener.losses()[4:] != heard.losses()[4:]
    (started,) = listener.of(QuantizationStarted)
    assert (started.step, sum(started.matrices.values())) == (4, 16)
    kinds = [type(event) for event in listener.events if isinstance(event, (QuantizationStarted, Eval))]
    assert kinds == [Eval, QuantizationStarted, Eval, Eval], "the evaluation after the warm-up sees rounded weights"
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "rounded"] == [
        *["step"] * 2, "eval", *["step"] * 2, "quantization_started", "eval", *["step"] * 2, "eval",
    ]  # fmt: skip
    assert not listener.evaluations()[0].is_best, "it is the loss of another model"


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
@pytest.mark.parametrize("resumed_at", [2, 3, 4])
def test_a_run_resumed_on_either_side_of_the_switch_writes_the_same_bytes(
    folder: Path, resumed_at: int, lora: dict[str, Any] | None
) -> None:
    sections: dict[str, Any] = {
        "lora": lora,
        "quantize": {"type": "q4_0", "pure": True, "qat": {"warmup": 3}},
        "training": {"max_steps": 6, "save_every": 1, "keep_last": 9, "eval_every": 3},
    }
    whole, first = qat(folder, **sections)
    assert whole.model is not None
    expected, metrics = whole.model.read_bytes(), _metrics(folder)
    whole.model.unlink()
    settings = load_config(folder / "config.yaml")
    listener = Listener()
    checkpoint = folder / "run" / "checkpoints" / f"step-{resumed_at:06d}"
    resumed = run_training(settings, resume_from=checkpoint, reporter=listener)
    assert resumed.model is not None
    assert resumed.model.read_bytes() == expected
    assert listener.losses() == first.losses()[resumed_at:]
    assert _metrics(folder) == metrics
    goes_on = [notice for notice in listener.of(Notice) if "go on being quantized" in notice.message]
    assert len(goes_on) == (1 if resumed_at >= 3 else 0)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "peak_memory_bytes")} for line in lines]


def test_the_best_weights_are_those_of_a_quantized_step(folder: Path) -> None:
    _, listener = qat(
        folder,
        quantize={"type": "q4_0", "pure": True, "qat": {"warmup": 3}},
        training={"max_steps": 8, "eval_every": 1, "early_stopping": {"patience": 2}},
        optimizer={"lr": 0.3},
        lora=None,
    )
    assert min(event.step for event in listener.evaluations() if event.is_best) >= 3


def test_a_warm_up_as_long_as_the_run_is_refused(folder: Path) -> None:
    quantize = {"type": "q4_0", "qat": {"warmup": 5}}
    with pytest.raises(ConfigError, match="quantization would never start"):
        qat(folder, quantize=quantize, training={"max_steps": None, "epochs": 1})
    assert not (folder / "run").exists()


def test_micro_batches_and_checkpointed_activations_change_nothing(folder: Path) -> None:
    first, _ = qat(folder, training={"grad_accum": 2})
    other = {"grad_accum": 2, "activation_checkpointing": True, "output_dir": str(folder / "other")}
    second, _ = qat(folder, training=other)
    assert first.model is not None
    assert second.model is not None
    assert gguf_py.raw_tensors(first.model) == gguf_py.raw_tensors(second.model)


def test_training_lowers_the_loss_of_the_quantized_model(folder: Path) -> None:
    _, listener = qat(folder, lora=None, training={"max_steps": 60}, optimizer={"lr": 3e-3})
    losses = listener.losses()
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_matrix_that_is_rounded_by_nobody_is_said_before_the_run(folder: Path) -> None:
    write_base(folder / "base.gguf", type_name="Q4_0")
    with pytest.raises(ConfigError, match="no matrix of the model would be quantized"):
        qat(
            folder,
            quantize={"type": "q4_0", "pure": True, "qat": {"layers": ["v_proj"]}},
            lora={"target_modules": ["q_proj"]},
        )


def test_the_written_file_can_be_opened_as_a_model(folder: Path) -> None:
    result, _ = qat(folder)
    assert result.model is not None
    with GGUFFile.open(result.model) as file:
        assert load_model(file, CpuBackend(1)).logits(np.zeros((1, 3), np.int32)).shape[:2] == (1, 3)


def test_the_file_is_said_to_be_the_trained_model_and_no_change_to_be_lost(folder: Path) -> None:
    _, listener = qat(folder, optimizer={"lr": 1e-6})
    said = [notice.message for notice in listener.of(Notice)]
    assert any("exactly the weights that the last steps and evaluations used" in message for message in said)
    assert not any("rounding is larger" in message for message in said)


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_a_model_with_a_head_is_rounded_below_the_head(folder: Path, seen: Seen, lora: dict[str, Any] | None) -> None:
    """The head itself stays float32; an output matrix, which it does not use, is quantized when it is written.

    Predictions are those of the written model, also where there is an adapter beside it.
    """
    path = folder / "moods.parquet"
    texts = [prompt for prompt, _ in stories()]
    pq.write_table(pa.table({"review": texts, "label": ["good", "bad"] * (len(texts) // 2)}), path)
    result, listener = qat(folder, lora=lora, data={"train": str(path), "val": str(path)})
    assert result.model is not None
    types = gguf_py.types(result.model)
    assert seen.keys() == {name for name, kind in types.items() if kind == "Q4_0"} - {HEAD}
    for name, values in seen.items():
        np.testing.assert_array_equal(gguf_py.values(result.model, name), values, err_msg=name)
    assert types[HEAD] == "Q4_0"
    settings = PredictionSettings(threads=1)
    found = run_predict(folder / "run", str(path), folder / "out.parquet", settings=settings, reporter=Listener())
    assert found.metrics == listener.evaluations()[-1].metrics
