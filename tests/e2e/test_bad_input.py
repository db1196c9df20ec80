"""What bad input gets: one clear message, exit code 2, no traceback, and nothing written.

Each message is held against a file in ``bad_input/``; `REWRITE_SNAPSHOTS=1` writes them anew, to be read before they
are committed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import TensorPlan, copy_tensor, write_gguf
from tests.e2e.command import entrenar, tree

SNAPSHOTS = Path(__file__).with_name("bad_input")
EXAMPLES = Path(__file__).parents[2] / "examples"
Sections = dict[str, dict[str, Any]]


def rewritten(folder: Path, **changed: str) -> Path:
    """The bundled model with some text keys changed (`__` stands for a dot)."""
    path = folder / "changed.gguf"
    keys = {key.replace("__", "."): value for key, value in changed.items()}
    with GGUFFile.open(EXAMPLES / "tiny-base.gguf") as base:
        entries = [
            (key, MetadataValue.string(keys[key]) if key in keys else value) for key, value in base.metadata_entries()
        ]
        plans: list[TensorPlan] = [copy_tensor(base, name) for name in base.tensors]
        write_gguf(path, entries, plans)
    return path


def cut_model(folder: Path, keep: float) -> Path:
    path = folder / "cut.gguf"
    content = (EXAMPLES / "tiny-base.gguf").read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def parquet(folder: Path, **columns: list[Any]) -> str:
    path = folder / "data.parquet"
    pq.write_table(pa.table(columns), path)
    return str(path)


def text_file(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def set_model(sections: Sections, path: Path | str) -> None:
    sections["model"]["path"] = str(path)


CASES: dict[str, Callable[[Path, Sections], object]] = {
    "missing model": lambda folder, s: set_model(s, folder / "nowhere.gguf"),
    "truncated model": lambda folder, s: set_model(s, cut_model(folder, 0.5)),
    "truncated header": lambda folder, s: set_model(s, cut_model(folder, 0.001)),
    "wrong magic": lambda folder, s: set_model(s, text_file(folder, "model.gguf", b"not a model at all, just text")),
    "unknown architecture": lambda folder, s: set_model(s, rewritten(folder, general__architecture="mamba")),
    "unknown pre": lambda folder, s: set_model(s, rewritten(folder, tokenizer__ggml__pre="my-own-split")),
    "missing data": lambda folder, s: s["data"].update(train=str(folder / "nowhere.parquet")),
    "missing column": lambda folder, s: s["data"].update(prompt="promt", completion="completion"),
    "empty data": lambda folder, s: s["data"].update(train=parquet(folder, text=pa.array([], pa.string()))),
    "blank rows only": lambda folder, s: s["data"].update(train=parquet(folder, text=["", " ", None])),
    "number column": lambda folder, s: s["data"].update(train=parquet(folder, text=[1, 2]), text="text"),
    "no parquet": lambda folder, s: s["data"].update(train=text_file(folder, "data.parquet", b"a,b\n1,2\n")),
    "unknown key": lambda _, s: s["optimizer"].update(learning_rate=1e-4),
    "out of range": lambda _, s: s["optimizer"].update(lr=-1.0),
    "no such module": lambda _, s: s["lora"].update(target_modules=["q_prj"]),
    "output below a file": lambda folder, s: s["training"].update(
        output_dir=str(Path(text_file(folder, "taken", b"")) / "run")
    ),
    "longer than the context": lambda _, s: s["data"].update(seq_len=4096),
}


def message_of(case: str, folder: Path) -> tuple[int, str]:
    """Exit code and message of one run, with the folder's name taken out; the run must leave the folder as it was."""
    sections: Sections = {
        "model": {"path": str(EXAMPLES / "tiny-base.gguf")},
        "data": {"train": str(EXAMPLES / "tiny-train.parquet")},
        "optimizer": {},
        "lora": {"rank": 2},
        "training": {"max_steps": 1, "output_dir": str(folder / "run")},
    }
    CASES[case](folder, sections)
    (folder / "config.yaml").write_text(json.dumps(sections, indent=1))
    before = tree(folder)
    done = entrenar("train", folder / "config.yaml")
    assert tree(folder) == before
    assert done.out == ""
    return done.code, done.err.replace(str(folder), "<folder>").replace(str(EXAMPLES), "<examples>")


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_message_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    code, message = message_of(case, tmp_path)
    assert code == 2
    assert "Traceback" not in message
    assert message.count("error:") == 1
    snapshot = SNAPSHOTS / f"{case.replace(' ', '_')}.txt"
    if os.environ.get("REWRITE_SNAPSHOTS") == "1":
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(message)
    assert message == snapshot.read_text()


def test_nan_in_the_weights_stops_the_run_and_names_the_op(tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    shutil.copy(EXAMPLES / "tiny-base.gguf", path)
    with GGUFFile.open(path) as base:
        offset = base.tensors["blk.1.ffn_up.weight"].offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\x7f" * 4)
    sections = {
        "model": {"path": str(path)},
        "data": {"train": str(EXAMPLES / "tiny-train.parquet")},
        "lora": {"rank": 2},
        "training": {"max_steps": 1, "output_dir": str(tmp_path / "run")},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(sections))
    done = entrenar("train", tmp_path / "config.yaml")
    assert done.code == 1
    assert "blk.1.ffn_up" in done.err
    assert "linear" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run" / "model.gguf").exists()


def test_resume_without_a_checkpoint_says_so(tmp_path: Path, project_root: Path) -> None:
    done = entrenar(
        "train",
        project_root / "configs" / "quickstart.yaml",
        "--resume",
        "--output-dir",
        tmp_path / "run",
        cwd=project_root,
    )
    assert done.code == 2
    assert "there is no checkpoint to go on from" in done.err
    assert not (tmp_path / "run").exists()
