"""Calibration in a training run: what the written model is weighed by, and what is said before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import ConfigError, DataError, EntrenarError, FormatError
from entrenar_core.events import Progress
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.quant.granularity import RowScaleEncoder
from entrenar_core.quant.imatrix import ImportanceEntry, ImportanceMatrix, write_imatrix
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.calibrate import importance_for
from entrenar_core.stages.run_calibration import open_calibration
from tests.stages.quantized import quantize
from tests.stages.tiny_base import config, stories, train
from tests.train.tiny_model import Listener

FULL: dict[str, Any] = {"lora": None, "optimizer": {"lr": 1e-3}}
SHORT = {"rows": 2, "seq_len": 32}
QUERY = "blk.0.attn_q.weight"


def run(folder: Path, quantize: dict[str, Any], **sections: Any) -> tuple[dict[str, np.ndarray], Listener]:
    """The matrices of the written model, and what was said."""
    result, listener = train(folder, quantize=quantize, **{**FULL, **sections})
    assert result.steps == 3
    with GGUFFile.open(folder / "run" / "model.gguf") as file:
        return {name: file.load(name) for name in file.tensors}, listener


def trained(folder: Path, **sections: Any) -> Path:
    """The same run without quantization: the trained weights."""
    train(folder, quantize=None, **{**FULL, **sections}, training={"output_dir": str(folder / "plain")})
    return folder / "plain" / "model.gguf"


def test_the_trained_model_is_measured_on_the_training_data(folder: Path) -> None:
    section = {"type": "q4_0", "pure": True, "calibration": SHORT}
    written, listener = run(folder, section)
    plain = trained(folder)
    checked = config(folder, quantize=section, **FULL)
    assert checked.quantize is not None
    assert checked.quantize.calibration is not None
    importance = importance_for(plain, checked.quantize.calibration, threads=1, reporter=Listener(), data=checked.data)[
        QUERY
    ]
    with GGUFFile.open(plain) as file:
        weights = file.load(QUERY)
    codec = codec_for("Q4_0")
    weighed, unweighed = (codec.decode(codec.encode(weights, one)) for one in (importance, None))
    assert np.mean(written[QUERY] == weighed) > 0.99
    assert np.mean(written[QUERY] == unweighed) < 0.9
    assert Progress("calibrate", 2, 2) in listener.events


def test_a_file_weighs_too(folder: Path) -> None:
    columns = np.linspace(0, 1, 32, dtype=np.float32) ** 4
    path = matrix_file(folder, QUERY, columns)
    written, _ = run(folder, {"type": "q4_0", "pure": True, "calibration": {"imatrix": path}})
    with GGUFFile.open(trained(folder)) as file:
        weights = file.load(QUERY)
        others = file.load("blk.0.attn_k.weight")
    codec = codec_for("Q4_0")
    assert np.array_equal(written[QUERY], codec.decode(codec.encode(weights, columns)))
    assert np.array_equal(written["blk.0.attn_k.weight"], codec.decode(codec.encode(others)))


def matrix_file(folder: Path, name: str, columns: np.ndarray) -> str:
    entry = ImportanceEntry(columns[None, :], np.ones(1, np.float32))
    write_imatrix(folder / "m.gguf", ImportanceMatrix({name: entry}, ("x",), 1, 32))
    return str(folder / "m.gguf")


def test_percentiles_clip_rows_that_share_a_scale(folder: Path) -> None:
    section = {
        "type": "q8_0",
        "granularity": "per_channel",
        "calibration": {**SHORT, "method": "percentile", "percentile": 90},
    }
    written, _ = run(folder, section)
    plain = trained(folder)
    checked = config(folder, quantize=section, **FULL)
    assert checked.quantize is not None
    assert checked.quantize.calibration is not None
    importance = importance_for(plain, checked.quantize.calibration, threads=1, reporter=Listener(), data=checked.data)[
        QUERY
    ]
    with GGUFFile.open(plain) as file:
        weights = file.load(QUERY)
    encoder = RowScaleEncoder("Q8_0", 90.0)
    expected = encoder.decode(encoder.encode(weights, importance))
    assert np.mean(written[QUERY] == expected) > 0.99
    assert np.abs(written[QUERY]).max() < np.abs(weights).max()


def test_qat_measures_the_model_that_it_starts_from(folder: Path) -> None:
    """Once, before the first step; the file is written with the same importance."""
    listener = run(folder, {"type": "q4_0", "stage": "qat", "pure": True, "calibration": SHORT})[1]
    told = [index for index, event in enumerate(listener.events) if event == Progress("calibrate", 2, 2)]
    steps = [index for index, event in enumerate(listener.events) if type(event).__name__ == "Step"]
    assert len(told) == 1
    assert told[0] < steps[0]


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ({"data": "missing.jsonl"}, DataError, "missing.jsonl"),
        ({"imatrix": "missing.gguf"}, FormatError, "missing.gguf"),
        ({"seq_len": 65}, ConfigError, "was made for 64 tokens"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(
    folder: Path, calibration: dict[str, Any], error: type[EntrenarError], message: str
) -> None:
    with pytest.raises(error) as caught:
        train(folder, quantize={"bits": 4, "calibration": calibration}, **FULL)
    assert message in str(caught.value)
    assert not (folder / "run").exists()


def test_a_file_of_another_model_is_found_before_the_first_step(folder: Path) -> None:
    path = matrix_file(folder, "blk.7.attn_q.weight", np.ones(32, np.float32))
    with pytest.raises(FormatError, match="belongs to another model"):
        train(folder, quantize={"bits": 4, "calibration": {"imatrix": path}}, **FULL)


def test_runs_that_weigh_alike_have_one_digest(folder: Path) -> None:
    other = folder / "other.jsonl"
    other.write_text(json.dumps({"text": stories()[0][0]}) + "\n")
    digests = []
    for calibration in (SHORT, SHORT, {**SHORT, "rows": 1}, {**SHORT, "data": str(other)}):
        checked = config(folder, quantize={"bits": 4, "calibration": calibration}, **FULL)
        base = open_base(checked, Listener())
        opened = open_calibration(checked, base, Listener())
        base.close()
        assert opened is not None
        digests.append(opened.digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_without_a_section_nothing_is_calibrated(folder: Path) -> None:
    checked = config(folder, quantize={"bits": 4}, **FULL)
    base = open_base(checked, Listener())
    assert open_calibration(checked, base, Listener()) is None
    base.close()


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_the_quantize_command_clips_by_percentiles_too(folder: Path, granularity: str) -> None:
    texts = folder / "texts.jsonl"
    texts.write_text(json.dumps({"text": " ".join(stories()[0])}) + "\n")
    largest = {}
    for percentile in (60.0, 100.0):
        target = folder / f"{percentile}.gguf"
        calibration = {"data": str(texts), "method": "percentile", "percentile": percentile, **SHORT}
        quantize(folder / "base.gguf", target, type="q8_0", granularity=granularity, calibration=calibration)
        with GGUFFile.open(target) as file:
            largest[percentile] = np.abs(file.load(QUERY)).max()
    assert largest[60.0] < 0.7 * largest[100.0]
