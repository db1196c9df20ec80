"""What is said of the errors of a written model: the file, the event and the sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.root import Config
from entrenar_core.events import Notice, Rounded, Saved
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.export_report import report_rounding, rounding_notices
from tests.train.tiny_model import Listener

SMALL = TensorError("blk.0.attn_q.weight", "Q4_0", 1024, 0.01, 0.03, 20.5, change_rms=0.1)
LARGE = TensorError("blk.0.attn_k.weight", "Q4_0", 512, 0.01, 0.03, 20.5, change_rms=0.004)
HALF = TensorError("blk.0.attn_v.weight", "F16", 512, 1e-5, 3e-5, 80.0, change_rms=0.1)
COPIED = TensorError("output.weight", "Q4_0", 512, 0.01, 0.03, 20.5)


def config(**sections: Any) -> Config:
    return Config.model_validate({"model": {"path": "b.gguf"}, "data": {"train": "t.parquet"}, **sections})


def notices(*errors: TensorError, **sections: Any) -> list[Notice]:
    return rounding_notices(errors, config(**sections))


def test_file_and_event_hold_every_error(tmp_path: Path) -> None:
    listener = Listener()
    event = report_rounding([SMALL, LARGE, HALF, COPIED], 7, tmp_path, config(), listener)
    assert event is not None
    assert (event.step, event.tensors, event.lost) == (7, 4, 1)
    assert event.median_change_share == pytest.approx(0.1)
    assert event.errors[LARGE.name] == {
        "type_name": "Q4_0", "n_values": 512, "rmse": 0.01, "max_error": 0.03, "sqnr_db": 20.5, "change_rms": 0.004,
        "change_share": 2.5,
    }  # fmt: skip
    assert event.errors[COPIED.name]["change_share"] is None
    content = json.loads((tmp_path / "export-report.json").read_text())
    assert content["model"] == "model.gguf"
    assert content["errors"] == event.errors
    assert listener.of(Rounded) == [event]
    (saved,) = listener.of(Saved)
    assert (saved.kind, saved.path) == ("report", tmp_path / "export-report.json")


def test_without_rounding_there_is_no_report(tmp_path: Path) -> None:
    listener = Listener()
    assert report_rounding([], 7, tmp_path, config(), listener) is None
    assert listener.events == []
    assert list(tmp_path.iterdir()) == []


def test_one_changed_tensor_is_said_in_the_singular() -> None:
    (notice,) = notices(SMALL)
    assert notice.message.startswith("1 changed tensor is rounded to Q4_0: the error is 0.1 of the change")


def test_blocks_of_few_bits_are_summed_up_with_the_worst() -> None:
    (notice,) = notices(SMALL, replace(SMALL, name="w", change_rms=0.02), HALF, COPIED)
    assert notice == Notice(
        "info",
        "2 changed tensors are rounded to Q4_0: the error is 0.3 of the change (median); "
        "worst: w 0.5, blk.0.attn_q.weight 0.1",
    )


def test_floats_that_keep_the_change_need_no_words() -> None:
    assert notices(HALF, COPIED) == []


def test_a_change_that_is_smaller_than_its_rounding_is_warned_of() -> None:
    _, warning = notices(SMALL, LARGE)
    assert warning.level == "warning"
    assert warning.message == (
        "in 1 of 2 changed tensors rounding is larger than what training changed, so much of it is lost in the file; "
        "output.type: q8_0 or f16 keeps it"
    )
    (only,) = notices(replace(HALF, change_rms=1e-6))
    assert only.level == "warning", "floats round too"


def test_the_way_out_is_one_that_the_config_allows() -> None:
    over_adapter = notices(LARGE, lora={"rank": 4})[-1].message
    assert over_adapter.endswith("output.type: q8_0 or f16 keeps it, and so does the adapter beside the base")
    quantized = notices(LARGE, quantize={"bits": 4, "stage": "output"})[-1].message
    assert quantized.endswith("keeps it (q8_0 or f16), and quantize.stage: qat trains with the rounding")


@pytest.mark.parametrize(("type_name", "wider"), [("Q6_K", "q8_0 or f16"), ("Q8_0", "f16"), ("F16", "f32")])
def test_the_way_out_is_wider_than_every_type_that_loses(type_name: str, wider: str) -> None:
    kept = replace(SMALL, name="w", type_name="F16")
    (*_, warning) = notices(LARGE, kept, replace(LARGE, name="x", type_name=type_name))
    assert warning.message.endswith(f"output.type: {wider} keeps it")


def test_a_tensor_that_did_not_change_is_not_lost() -> None:
    assert notices(replace(COPIED, change_rms=0.0)) == []
