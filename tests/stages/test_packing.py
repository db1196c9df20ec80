"""What is said of a base before it is held in few bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.packing import check_packing
from tests.stages.tiny_base import base_spec, write_base
from tests.train.tiny_model import Listener


def notices(path: Path, type_name: str) -> list[Notice]:
    listener = Listener()
    with GGUFFile.open(path) as file:
        check_packing(file, type_name, listener)
    return listener.of(Notice)


@pytest.mark.parametrize("stored", ["F32", "F16", "Q4_0"])
def test_there_is_nothing_to_say_of_floats_and_of_blocks_that_are_taken_as_they_are(
    stored: str, tmp_path: Path
) -> None:
    assert notices(write_base(tmp_path / "base.gguf", type_name=stored), "Q4_0") == []


def test_matrices_that_stay_dense_are_counted_and_one_is_named(tmp_path: Path) -> None:
    (notice,) = notices(write_base(tmp_path / "base.gguf", base_spec(intermediate_size=48)), "Q4_0")
    assert notice.level == "info"
    assert notice.message == (
        "2 matrices stay in float32: their rows do not divide into Q4_0 blocks (blk.0.ffn_down.weight has rows of 48)"
    )


def test_blocks_of_another_type_are_quantized_again_and_that_is_said(tmp_path: Path) -> None:
    (notice,) = notices(write_base(tmp_path / "base.gguf", type_name="Q8_0"), "Q4_0")
    assert notice.level == "warning"
    assert notice.message.startswith("14 matrices are Q8_0 in the file and are quantized again, to Q4_0")


def test_a_model_without_any_whole_block_is_refused(tmp_path: Path) -> None:
    spec = base_spec(hidden_size=48, num_heads=6, intermediate_size=80)
    with pytest.raises(ConfigError, match=r"no matrix of .* has rows of whole Q4_0 blocks") as caught:
        notices(write_base(tmp_path / "base.gguf", spec), "Q4_0")
    assert caught.value.where == "quantize"
