"""`entrenar quantize` in processes of its own: what it writes opens everywhere, what is ended leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

from entrenar_core.gguf.reader import GGUFFile
from tests.e2e.command import assert_interrupt_leaves_nothing, call, entrenar, tree
from tests.stages.peak_of_command import HAS_HIGH_WATER_MARK, peak_resident_bytes
from tests.stages.quantized import write_wide

MIXES = ("q4_0", "q8_0", "q4_k_m", "f16")


@pytest.mark.parametrize("mix", MIXES)
def test_what_is_written_opens_with_our_reader_and_with_gguf_py(mix: str, tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf", type_name="F32")
    done = entrenar("quantize", "model.gguf", "-o", "out.gguf", "--type", mix, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.events()[-1]["event"] == "quantized"
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    with GGUFFile.open(tmp_path / "out.gguf") as file, GGUFFile.open(tmp_path / "model.gguf") as source:
        assert [tensor.name for tensor in reader.tensors] == list(file.tensors) == list(source.tensors)
        for tensor in reader.tensors:
            ours = file.load(tensor.name)
            theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(ours.shape)
            assert np.array_equal(ours, theirs), tensor.name
            noise = np.sqrt(np.mean((ours - source.load(tensor.name)) ** 2))
            assert noise < 0.2 * np.sqrt(np.mean(source.load(tensor.name) ** 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out.gguf"]


def big_model(folder: Path) -> Path:
    """Enough work for an interrupt to find some."""
    return write_wide(folder / "model.gguf", layers=2, rows=2048, columns=1024)


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "interrupted by SIGTERM\n")]
)
def test_an_interrupt_leaves_nothing_behind(number: signal.Signals, words: str, tmp_path: Path) -> None:
    big_model(tmp_path)
    options = ["-o", "out.gguf", "--type", "q4_k_m", "--threads", "1"]
    assert_interrupt_leaves_nothing(number, words, tmp_path, "quantize", "model.gguf", *options)


def test_a_disk_that_becomes_full_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    """The limit on the size of files stands for a disk that fills up while it is written."""
    write_wide(tmp_path / "model.gguf", rows=256)
    before = tree(tmp_path)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (50_000, 50_000))
    done = entrenar("quantize", "model.gguf", "-o", "out.gguf", "--type", "q8_0", cwd=tmp_path, preexec_fn=limit)
    assert done.code == 2, done.err
    assert "out.gguf: the file cannot be written" in done.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_name_that_no_file_can_have_is_refused_before_the_work(option: str, tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf")
    before = tree(tmp_path)
    for name in (f"{'x' * 250}.gguf", "x" * 300, f"{'x' * 300}/o.gguf"):
        names = {"-o": "o.gguf", option: name}
        options = [word for pair in names.items() for word in pair]
        done = call("quantize", "model.gguf", "--type", "q8_0", *options, cwd=tmp_path)
        assert done.code == 2
        assert "error: xxx" in done.err, "nothing is said before"
        assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    done = entrenar("quantize", "model.gguf", "-o", "closed/out.gguf", "--type", "q8_0", cwd=tmp_path)
    assert done.code == 2
    assert "cannot be written" in done.err


@pytest.mark.slow
@pytest.mark.skipif(not HAS_HIGH_WATER_MARK, reason="the system does not say how much memory a process had")
@pytest.mark.parametrize("measures", [False, True])
def test_memory_stays_within_what_is_allowed(measures: bool, tmp_path: Path) -> None:
    """A file of 64 MiB, in no more memory than is allowed, which is little more than the program itself takes."""
    write_wide(tmp_path / "model.gguf", type_name="F32", layers=0, rows=4096, columns=2048)
    model, out = tmp_path / "model.gguf", tmp_path / "out.gguf"
    report = ("--report", tmp_path / "report.json") if measures else ()
    command = ("quantize", model, "-o", out, "--type", "q8_0", "--memory", "300MiB", "--overwrite", *report)
    peaks = [peak_resident_bytes(tmp_path, *command) for _ in range(2)]  # the first one may compile kernels
    assert peaks[1] < 300 << 20
