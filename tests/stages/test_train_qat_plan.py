"""What a plan says of a run with quantized weights: which, how, and the memory that their copies take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.load import load_config
from entrenar_core.config.root import Config
from entrenar_core.errors import EntrenarError
from entrenar_core.events import Progress, Reporter, SilentReporter
from entrenar_core.stages.dry_run import check_run, plan_run
from entrenar_core.stages.plan_types import RunPlan
from tests.model.tiny import lively_weights
from tests.stages.peak_of_command import HAS_HIGH_WATER_MARK, peak_resident_bytes
from tests.stages.tiny_base import base_spec, config, write_base, write_config, write_data
from tests.train.tiny_model import Listener

LORA: dict[str, Any] = {"target_modules": ["q_proj"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf", type_name="F16")
    return tmp_path


def plan(folder: Path, quantize: dict[str, Any], **sections: Any) -> RunPlan:
    sections.setdefault("lora", None)
    path = write_config(folder, quantize={"stage": "qat", **quantize}, **sections)
    return plan_run(load_config(path), SilentReporter())


def values(*modules: str) -> int:
    """Numbers in the matrices of the model, or of those modules of it."""
    matrices = {name: array.size for name, array in lively_weights(base_spec()).items() if array.ndim == 2}
    return sum(size for name, size in matrices.items() if not modules or name.split(".")[-2] in modules)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "all weights; with all matrices quantized to q4_0 while training, gradients straight through"),
        (
            {"layers": ["q_proj", "head"], "gradient": "clipped", "warmup": 2},
            "all weights; with q_proj, head quantized to q4_0 while training after 2 steps in full precision, "
            "gradients clipped",
        ),
    ],
)
def test_a_plan_and_a_check_say_what_is_quantized(folder: Path, section: dict[str, Any], said: str) -> None:
    quantize = {"type": "q4_0", "pure": True, "qat": section}
    assert plan(folder, quantize).method == said
    path = write_config(folder, quantize={"stage": "qat", **quantize}, lora=None)
    assert check_run(load_config(path), SilentReporter()).method == said


@pytest.mark.parametrize("stage", ["qat", "output"])
def test_types_that_matrices_have_instead_are_warned_of(stage: str, folder: Path) -> None:
    """Rows of 32 and 64 fit no K-type: Q4_K becomes Q5_0, Q6_K (one value and one down projection) Q8_0."""
    path = write_config(folder, quantize={"stage": stage, "type": "q4_k_m"}, lora=None)
    says = "matrices whose rows do not divide into the blocks of the mix get another type: 13 of Q5_0, 2 of Q8_0"
    for look in (check_run, plan_run):
        assert says in look(load_config(path), SilentReporter()).warnings


@pytest.mark.parametrize(
    ("qat", "sections", "expected"),
    [
        ({}, {}, 4 * values()),
        ({"gradient": "clipped"}, {}, 5 * values()),
        ({"layers": ["q_proj"]}, {}, 4 * values("attn_q")),
        ({}, {"lora": LORA}, 4 * values() + 4 * values("token_embd")),
    ],
)
def test_memory_has_a_part_for_the_rounded_copies(
    folder: Path, qat: dict[str, Any], sections: dict[str, Any], expected: int
) -> None:
    found = dict(plan(folder, {"type": "q4_0", "pure": True, "qat": qat}, **sections).memory.parts)
    assert found["quantized weights"] == expected


def test_other_runs_have_no_such_part(folder: Path) -> None:
    found = plan_run(load_config(write_config(folder)), SilentReporter())
    assert "quantized weights" not in dict(found.memory.parts)


def test_the_model_of_the_plan_has_the_size_of_the_file(folder: Path) -> None:
    small = dict(plan(folder, {"type": "q4_0", "pure": True}).disk.parts)["model.gguf"]
    large = dict(plan(folder, {"type": "q8_0"}).disk.parts)["model.gguf"]
    assert large - small == values() // 32 * (34 - 18)


@pytest.mark.integration
@pytest.mark.skipif(not HAS_HIGH_WATER_MARK, reason="needs /proc to see the resident memory")
@pytest.mark.parametrize(
    ("gradient", "lora"),
    [
        pytest.param("clipped", None, marks=pytest.mark.slow),
        pytest.param("straight_through", {"target_modules": "all"}),
    ],
)
def test_the_estimate_is_within_15_percent_of_the_measured_peak(
    tmp_path: Path, gradient: str, lora: dict[str, Any] | None
) -> None:
    """Of a model of 7 million weights, whose copies are a tenth of the whole."""
    sizes = {"hidden_size": 384, "num_heads": 6, "num_kv_heads": 6, "head_dim": 64, "rope_dimensions": 64}
    write_base(tmp_path / "base.gguf", base_spec(**sizes, num_layers=4, intermediate_size=1024), type_name="F16")
    write_data(tmp_path, text=True)
    path = write_config(
        tmp_path,
        lora=lora,
        data={"text": "text", "batch_size": 8, "seq_len": 64, "packing": True},
        quantize={"type": "q4_0", "stage": "qat", "qat": {"gradient": gradient}},
        training={"max_steps": 2, "threads": 2},
    )
    estimated = plan_run(load_config(path), SilentReporter()).memory.total
    measured = peak_resident_bytes(tmp_path, "train", path)
    assert estimated == pytest.approx(measured, rel=0.15), f"{estimated >> 20} and {measured >> 20} MiB"


@pytest.mark.parametrize("look", [check_run, plan_run])
@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"type": "q4_0", "calibration": {"imatrix": "none.gguf"}}, r"none\.gguf: there is no such file"),
        ({"type": "q4_0", "calibration": {"data": "none.jsonl"}}, r"none\.jsonl: the file does not exist"),
        ({"type": "q4_0", "tensor_types": {"foo": "q8_0"}}, "'foo' finds no matrix of the model"),
        ({"type": "q4_0", "stage": "qat", "qat": {"layers": ["embd"]}}, "unknown module 'embd'"),
    ],
)
def test_what_is_wrong_with_the_result_is_found_before_anything_is_tokenized(
    look: Callable[[Config, Reporter], object], section: dict[str, Any], says: str, folder: Path
) -> None:
    listener = Listener()
    with pytest.raises(EntrenarError, match=says):
        look(config(folder, lora=None, quantize=section), listener)
    assert not listener.of(Progress)
