"""Whether a run fits, and the change that would make it fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.lora.inject import LoRASettings
from entrenar_core.stages import fit
from entrenar_core.stages.estimate import MemoryRequest, estimate_memory
from entrenar_core.stages.fit import Verdict, available_memory_bytes, memory_verdict
from tests.stages.tiny_base import base_spec

GIB = 1 << 30


def request(**changes: Any) -> MemoryRequest:
    """A run whose activations are most of what it takes."""
    settings: dict[str, Any] = {"batches": [(64, 512)], "lora": LoRASettings(4, 8.0), "threads": 1, **changes}
    spec = base_spec(num_layers=8, hidden_size=128, head_dim=32, intermediate_size=512, context_length=512)
    return MemoryRequest(spec=spec, optimizer=OptimizerConfig(), **settings)


def verdict_below(share: float, **changes: Any) -> Verdict:
    """The verdict when only this share of what the run needs is free."""
    asked = request(**changes)
    estimate = estimate_memory(asked)
    return memory_verdict(asked, estimate, int(share * estimate.needed))


def test_a_run_that_fits_needs_no_change() -> None:
    verdict = verdict_below(1.1)
    assert verdict.fits
    assert verdict.change is None


def test_unknown_free_memory_is_no_obstacle() -> None:
    asked = request()
    assert memory_verdict(asked, estimate_memory(asked), None).fits


def test_smaller_batches_with_more_accumulation_come_first() -> None:
    verdict = verdict_below(0.8)
    assert not verdict.fits
    assert verdict.change is not None
    assert verdict.change.keys == "data.batch_size: 32 with training.grad_accum × 2"
    assert verdict.available is not None
    assert verdict.change.needed <= verdict.available


def test_the_smallest_change_of_the_batch_that_suffices_is_named() -> None:
    one, two = verdict_below(0.8).change, verdict_below(0.4).change
    assert one is not None
    assert two is not None
    assert "batch_size: 32" in one.keys
    assert "batch_size: 8" in two.keys or "batch_size: 16" in two.keys


def test_checkpointing_is_named_when_there_is_one_row_left() -> None:
    verdict = verdict_below(0.8, batches=[(1, 4096)])
    assert verdict.change is not None
    assert verdict.change.keys == "training.activation_checkpointing: true"


def test_the_estimate_of_the_named_change_is_what_the_change_gives() -> None:
    verdict = verdict_below(0.8)
    assert verdict.change is not None
    assert verdict.change.needed == estimate_memory(request(batches=[(32, 512)])).needed


def test_where_nothing_helps_no_change_is_named() -> None:
    verdict = verdict_below(0.01)
    assert not verdict.fits
    assert verdict.change is None


def test_this_machine_has_memory() -> None:
    free = available_memory_bytes()
    assert free is None or 1 << 20 < free < 1 << 50


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 8 GiB free, and a control group of version 2 that the process is in."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    (tmp_path / "own").write_text("0::/outer/inner\n")
    (tmp_path / "cgroup" / "outer" / "inner").mkdir(parents=True)
    monkeypatch.setattr(fit, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(fit, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(fit, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def limit(group: Path, most: int | str, used: int, droppable: int = 0) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {droppable}\n")


def test_without_limits_the_system_decides(machine: Path) -> None:
    limit(machine / "cgroup" / "outer" / "inner", "max", 3 * GIB)
    assert available_memory_bytes() == 8 * GIB


def test_the_tightest_group_decides_wherever_it_is(machine: Path) -> None:
    limit(machine / "cgroup" / "outer" / "inner", 6 * GIB, 1 * GIB)
    limit(machine / "cgroup" / "outer", 4 * GIB, 3 * GIB)
    assert available_memory_bytes() == 1 * GIB


def test_files_that_a_group_has_cached_can_be_dropped(machine: Path) -> None:
    limit(machine / "cgroup" / "outer" / "inner", 4 * GIB, 3 * GIB, droppable=2 * GIB)
    assert available_memory_bytes() == 3 * GIB


def test_an_overfull_group_has_nothing_left(machine: Path) -> None:
    limit(machine / "cgroup" / "outer" / "inner", 1 * GIB, 2 * GIB)
    assert available_memory_bytes() == 0


def test_groups_of_version_1_are_known_too(machine: Path) -> None:
    (machine / "own").write_text("5:cpu:/a\n4:memory:/box\n")
    group = machine / "cgroup" / "memory" / "box"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (group.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group.parent / "memory.usage_in_bytes").write_text("1\n")
    assert available_memory_bytes() == 1 * GIB
