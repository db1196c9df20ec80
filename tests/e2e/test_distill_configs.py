"""Every ready distillation runs as it is delivered, only shorter, from what the runs before it leave."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import read_spec
from tests.e2e.command import call, metrics
from tests.e2e.test_configs import assert_both_readers_agree, assert_it_writes
from tests.stages import gguf_py
from tests.stages.merge_inputs import write_near

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def workplace(project_root: Path, tmp_path: Path) -> Path:
    """The examples with less data, and a fine-tuned model where quickstart.yaml leaves one."""
    examples = tmp_path / "examples"
    examples.mkdir()
    for source in (project_root / "examples").iterdir():
        (examples / source.name).symlink_to(source)
    for name in ("tiny-pretrain.parquet", "tiny-train.parquet"):
        (examples / name).unlink()
        pq.write_table(pq.read_table(project_root / "examples" / name).slice(0, 60), examples / name)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    write_near(tmp_path / "runs" / "quickstart" / "model.gguf", project_root / "examples" / "tiny-base.gguf", seed=1)
    return tmp_path


def distil(name: str, *changes: str, cwd: Path) -> Path:
    """Run it for two steps; the folder of the run, whose model both readers read alike."""
    short = ["training.max_steps=2", "training.eval_every=2", "data.batch_size=4", *changes]
    settings = [argument for change in short for argument in ("--set", change)]
    done = call("distill", CONFIGS / f"{name}.yaml", *settings, cwd=cwd)
    assert done.code == 0, done.err
    run = cwd / "runs" / name
    assert_both_readers_agree(run / "model.gguf")
    assert_it_writes(run)
    return run


def test_every_ready_distillation_is_run_here() -> None:
    names = [path.stem for path in sorted(CONFIGS.glob("distill-*.yaml"))]
    assert names == ["distill-half", "distill-lora", "distill-qat"]


def test_half_a_model_is_made_and_a_lora_on_it_learns_from_a_cache(workplace: Path) -> None:
    half = distil("distill-half", "data.val_fraction=0.1", cwd=workplace)
    with GGUFFile.open(half / "model.gguf") as file:
        assert read_spec(file).num_layers == 2
    run = distil("distill-lora", cwd=workplace)
    assert (run / "adapter.gguf").is_file()
    assert len(list((workplace / "runs" / "distill-lora-teacher").iterdir())) >= 2
    again = call("distill", run / "config.resolved.yaml", "--output-dir", "again", cwd=workplace)
    assert again.code == 0, again.err
    assert metrics(workplace / "again") == metrics(run)
    assert (workplace / "again" / "model.gguf").read_bytes() == (run / "model.gguf").read_bytes()


def test_a_model_in_four_bits_learns_from_itself(workplace: Path) -> None:
    run = distil("distill-qat", "data.val_fraction=0.1", cwd=workplace)
    assert gguf_py.types(run / "model.gguf")["blk.0.ffn_up.weight"] == "Q4_0"
