"""The report of `entrenar quantize`: the errors of whole tensors, in a file that is not another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import OutputError
from entrenar_core.gguf.reader import GGUFFile
from tests.stages.quantized import quantize, types_of, write_wide


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_wide(tmp_path / "source.gguf")


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "source.gguf")


@pytest.mark.parametrize("kind", ["q4_0", "f16", "f32"])
def test_the_report_has_the_errors_of_whole_tensors(kind: str, source: Path, tmp_path: Path) -> None:
    result = quantize(source, tmp_path / "out.gguf", type=kind, pure=True, measures=True)
    with GGUFFile.open(source) as before, GGUFFile.open(tmp_path / "out.gguf") as after:
        for one in result.tensors:
            if one.source_type == one.type_name:
                assert one.errors is None
                continue
            values, error = before.load(one.name), after.load(one.name) - before.load(one.name)
            assert one.errors is not None
            assert one.errors.rmse == pytest.approx(float(np.sqrt(np.mean(error.astype(np.float64) ** 2))), rel=1e-6)
            assert one.errors.largest == float(np.abs(error).max())
            if kind == "f32":
                assert one.errors.sqnr is None
            else:
                power, noise = (float(np.sum(part.astype(np.float64) ** 2)) for part in (values, error))
                assert one.errors.sqnr == pytest.approx(10 * np.log10(power / noise), rel=1e-6)


def test_the_report_is_written_as_json(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "errors.json"
    quantize(source, tmp_path / "out.gguf", type="q4_0", output__report=str(path), measures=True)
    found = json.loads(path.read_text())
    assert found["n_bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert found["total"]["rmse"] > 0
    assert [one["name"] for one in found["tensors"]] == list(types_of(source))
    assert {"name", "shape", "source_type", "type", "source_bytes", "n_bytes", "rmse", "max_error", "sqnr_db"} <= set(
        found["tensors"][0]
    )


def test_a_report_that_cannot_be_written_is_known_beforehand(source: Path, tmp_path: Path) -> None:
    for report in (tmp_path / "no" / "r.json", tmp_path, tmp_path / "out.gguf", source):
        with pytest.raises(OutputError):
            quantize(source, tmp_path / "out.gguf", type="q8_0", output__report=str(report), measures=True)
    assert left_behind(tmp_path) == []


def test_a_report_replaces_a_file_only_when_that_is_allowed(source: Path, tmp_path: Path) -> None:
    report = tmp_path / "notes.json"
    report.write_text("kept")
    with pytest.raises(OutputError, match="is there already"):
        quantize(source, tmp_path / "out.gguf", type="q8_0", output__report=str(report), measures=True)
    assert (report.read_text(), (tmp_path / "out.gguf").exists()) == ("kept", False)
    quantize(source, tmp_path / "out.gguf", overwrite=True, type="q8_0", output__report=str(report), measures=True)
    assert json.loads(report.read_text())["n_bytes"]
