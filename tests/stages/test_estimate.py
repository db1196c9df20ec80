"""The estimate of a run's peak memory is within 15 % of what the command really takes, and its parts add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.config.load import load_config
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.lora.inject import LoRASettings
from entrenar_core.model.load import read_spec
from entrenar_core.stages.base_model import lora_settings
from entrenar_core.stages.estimate import MAPPED, MemoryRequest, batch_shapes, estimate_memory, weight_bytes
from entrenar_core.stages.packing import held_types
from tests.stages.peak_of_command import HAS_HIGH_WATER_MARK, peak_resident_bytes
from tests.stages.tiny_base import base_spec, stories, write_base, write_config

SIZES = {
    "num_layers": 4,
    "hidden_size": 384,
    "num_heads": 6,
    "num_kv_heads": 6,
    "head_dim": 64,
    "rope_dimensions": 64,
    "intermediate_size": 1024,
    "context_length": 256,
}
WIDTH, LORA = 256, {"rank": 8, "target_modules": ["q_proj", "v_proj"]}
MIB = 1 << 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 7 million weights, and documents that fill every row."""
    folder = tmp_path_factory.mktemp("base")
    write_base(folder / "base.gguf", base_spec(**SIZES), type_name="F16")
    write_base(folder / "blocks.gguf", base_spec(**SIZES), type_name="Q8_0")
    story = " ".join(f"{prompt} {completion}" for prompt, completion in stories())
    pq.write_table(pa.table({"text": [story] * 200}), folder / "train.parquet")
    return folder


def request_of(config_path: Path, rows: int) -> MemoryRequest:
    config = load_config(config_path)
    path = Path(str(config.model.path))
    with GGUFFile.open(path) as file:
        return MemoryRequest(
            spec=read_spec(file),
            optimizer=config.optimizer,
            batches=[(rows, WIDTH)],
            lora=None if config.lora is None else lora_settings(config),
            checkpoint_activations=config.training.activation_checkpointing,
            threads=config.training.threads,
            held_as=held_types(config, file),
            tensors=dict(file.tensors),
            base_bytes=path.stat().st_size,
            data_tokens=200 * 500,
            data_examples=400,
            data_bytes=Path(config.data.train[0].path).stat().st_size,
        )


@pytest.mark.integration
@pytest.mark.skipif(not HAS_HIGH_WATER_MARK, reason="needs /proc to see the resident memory")
@pytest.mark.parametrize(
    ("rows", "sections"),
    [
        (8, {"lora": LORA}),
        pytest.param(16, {"lora": LORA}, marks=pytest.mark.slow),
        pytest.param(8, {"lora": None}, marks=pytest.mark.slow),
        pytest.param(12, {"lora": None, "training": {"activation_checkpointing": True}}, marks=pytest.mark.slow),
        pytest.param(8, {"lora": LORA, "quantize": {"bits": 4}}, marks=pytest.mark.slow),
        pytest.param(8, {"lora": LORA, "model": {"path": "blocks.gguf"}}, marks=pytest.mark.slow),
    ],
    ids=["lora", "lora with a larger batch", "full", "full with checkpointing", "packed base", "file in blocks"],
)
def test_the_estimate_is_within_15_percent_of_the_measured_peak(
    base: Path, tmp_path: Path, rows: int, sections: dict[str, Any]
) -> None:
    training = {"max_steps": 2, "threads": 2, "output_dir": str(tmp_path / "run"), **sections.get("training", {})}
    name = sections.get("model", {"path": "base.gguf"})["path"]
    config = write_config(
        base,
        **{
            **sections,
            "model": {"path": str(base / name)},
            "data": {"text": "text", "batch_size": rows, "seq_len": WIDTH, "packing": True},
            "training": training,
        },
    )
    estimated = estimate_memory(request_of(config, rows)).total
    measured = peak_resident_bytes(tmp_path, "train", config)
    assert estimated == pytest.approx(measured, rel=0.15), f"{estimated / MIB:.0f} and {measured / MIB:.0f} MiB"


def small_request(**changes: Any) -> MemoryRequest:
    settings: dict[str, Any] = {"optimizer": OptimizerConfig(), "batches": [(2, 32)], "threads": 1, **changes}
    return MemoryRequest(spec=base_spec(), **settings)


def test_the_parts_add_up_to_the_total() -> None:
    found = estimate_memory(small_request(base_bytes=5 * MIB))
    assert found.total == sum(n_bytes for _, n_bytes in found.parts)
    assert all(n_bytes >= 0 for _, n_bytes in found.parts)
    assert dict(found.parts)[MAPPED] == 5 * MIB


def test_pages_of_the_base_file_can_be_dropped_so_they_are_not_needed() -> None:
    found = estimate_memory(small_request(base_bytes=5 * MIB))
    assert found.needed == found.total - 5 * MIB


def test_only_a_lora_has_adapters() -> None:
    names = [name for name, _ in estimate_memory(small_request(lora=LoRASettings(4, 8.0))).parts]
    assert "adapters" in names
    assert "adapters" not in [name for name, _ in estimate_memory(small_request()).parts]


def test_held_data_count_and_streamed_data_do_not() -> None:
    held = dict(estimate_memory(small_request(data_tokens=10**8, data_examples=10**5)).parts)["data"]
    assert held == 5 * 10**8 + 48 * 10**5
    assert dict(estimate_memory(small_request(data_bytes=5 << 30)).parts)["data"] <= 64 * MIB


def test_cached_tokens_are_pages_that_can_be_dropped() -> None:
    held, cached = (estimate_memory(small_request(data_tokens=10**7, data_is_cached=is_so)) for is_so in (False, True))
    assert held.total == cached.total
    assert held.needed - cached.needed == 5 * 10**7


@pytest.mark.parametrize(
    ("file_type", "packed", "matrix_bytes", "in_place"),
    [
        ("F16", None, 4 * 64 * 64, 0),
        ("F16", "Q8_0", 64 * 64 * 34 // 32, 0),
        ("Q8_0", "Q8_0", 0, 64 * 64 * 34 // 32),
        ("Q8_0", "Q4_0", 64 * 64 * 18 // 32, 0),
    ],
    ids=["float32", "packed from F16", "packed as in the file", "packed anew"],
)
def test_matrices_that_are_held_in_blocks_stay_in_the_file_where_it_has_them_so(
    file_type: str, packed: str | None, matrix_bytes: int, in_place: int
) -> None:
    kind = TYPE_BY_NAME[file_type]
    tensors = {
        name: TensorInfo(name, (rows, 64), file_type, tensor_bytes((rows, 64), kind), 0)
        for name, rows in (("blk.0.attn_q.weight", 64), ("output.weight", 300))
    }
    held = {} if packed is None else {"blk.0.attn_q.weight": packed}
    assert weight_bytes(tensors, held) == (matrix_bytes + 4 * 300 * 64, in_place)


class Widths:
    """Batches of one row each, of known widths."""

    def __init__(self, *widths: int) -> None:
        self.widths = widths

    def shapes(self, epoch: int) -> np.ndarray:
        del epoch
        return np.array([(1, width) for width in self.widths])


@pytest.mark.parametrize(
    ("n_batches", "most", "expected"),
    [(2, 32, [3, 5]), (99, 32, [3, 5, 7, 99, 11, 13]), (6, 3, [3, 7, 99, 11]), (6, 2, [3, 99])],
    ids=[
        "those of the run",
        "no more than an epoch",
        "some at even distances and the largest",
        "the largest among them",
    ],
)
def test_batch_shapes_keep_their_order(n_batches: int, most: int, expected: list[int]) -> None:
    shapes = batch_shapes(Widths(3, 5, 7, 99, 11, 13), n_batches, most)
    assert shapes == [(1, width) for width in expected]
