"""Every ready merge runs as it is delivered, on models and adapters that stand for those of training runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import read_spec
from tests.e2e.command import call
from tests.stages import gguf_py
from tests.stages.merge_inputs import write_lora, write_near

CONFIGS = Path(__file__).parents[2] / "configs"
UP = "blk.{}.ffn_up.weight"


@pytest.fixture
def workplace(project_root: Path, tmp_path: Path) -> Path:
    """What is there when the training runs that the files name are done."""
    (tmp_path / "examples").symlink_to(project_root / "examples")
    base = project_root / "examples" / "tiny-base.gguf"
    for run in ("quickstart", "alpaca"):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        write_near(folder / "model.gguf", base, seed=len(run))
        write_lora(folder / "adapter.gguf", base, seed=len(run))
    return tmp_path


def merge(name: str, *options: str, cwd: Path) -> None:
    done = call("merge", CONFIGS / f"{name}.yaml", *options, cwd=cwd)
    assert done.code == 0, done.err


def values(path: Path, name: str) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return file.load(name)


def test_every_ready_merge_is_run_here() -> None:
    assert [path.stem for path in sorted(CONFIGS.glob("merge-*.yaml"))] == [
        "merge-mergekit",
        "merge-stack",
        "merge-ties",
    ]


def test_a_taller_model_has_the_layers_that_are_named(workplace: Path) -> None:
    merge("merge-stack", cwd=workplace)
    path = workplace / "tiny-stacked.gguf"
    for layer, origin in enumerate((0, 1, 2, 1, 2, 3)):
        expected = values(workplace / "examples" / "tiny-base.gguf", UP.format(origin))
        np.testing.assert_array_equal(values(path, UP.format(layer)), expected)
    with GGUFFile.open(path) as file:
        assert read_spec(file).num_layers == 6


def test_adapters_become_one_model_with_a_report(workplace: Path) -> None:
    merge("merge-ties", cwd=workplace)
    path = workplace / "runs" / "merged-ties.gguf"
    report = {one["name"]: one for one in json.loads(path.with_suffix(".json").read_text())["tensors"]}
    assert report[UP.format(0)]["kept"] == pytest.approx([0.5, 0.5], abs=0.01)
    types = gguf_py.types(path)
    assert set(types.values()) == {"Q8_0", "F32"}
    for name in types:
        np.testing.assert_array_equal(values(path, name), gguf_py.values(path, name), err_msg=name)


def test_a_file_of_mergekit_gives_what_it_says(workplace: Path) -> None:
    merge("merge-mergekit", "-o", "runs/merged-slerp.gguf", cwd=workplace)
    first, second = (workplace / "runs" / run / "model.gguf" for run in ("quickstart", "alpaca"))
    path = workplace / "runs" / "merged-slerp.gguf"
    np.testing.assert_allclose(values(path, UP.format(0)), values(second, UP.format(0)), atol=1e-3)
    np.testing.assert_allclose(values(path, UP.format(3)), values(first, UP.format(3)), atol=1e-3)
    middle = (values(first, "output_norm.weight") + values(second, "output_norm.weight")) / 2
    np.testing.assert_allclose(values(path, "output_norm.weight"), middle, rtol=2e-3)
