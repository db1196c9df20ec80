"""Which matrices of a base are held in blocks, in which types, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.packing import described_types, held_types, say_how_it_is_held, say_how_it_is_written
from tests.model.tiny import lively_weights
from tests.stages.tiny_base import base_spec, write_base
from tests.train.tiny_model import Listener

EMBED, OUTPUT, Q = "token_embd.weight", "output.weight", "blk.0.attn_q.weight"
MATRICES = {name for name, array in lively_weights(base_spec()).items() if array.ndim == 2}


def held(path: Path, quantize: dict[str, Any] | None = None, **sections: Any) -> tuple[dict[str, str], list[Notice]]:
    content = {"model": {"path": str(path)}, "data": {"train": "t.parquet"}, "lora": {"rank": 4}, **sections}
    if quantize is not None:
        content["quantize"] = quantize
    config = Config.model_validate({key: value for key, value in content.items() if value is not None})
    listener = Listener()
    with GGUFFile.open(path) as file:
        found = held_types(config, file)
        say_how_it_is_held(config, file, found, listener)
    return found, listener.of(Notice)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "Q5_0"])
def test_a_base_in_blocks_stays_in_them_without_being_asked(type_name: str, tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf", type_name=type_name)
    assert held(path) == (dict.fromkeys(MATRICES, type_name), [])


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_a_base_of_floats_is_held_in_full_precision(type_name: str, tmp_path: Path) -> None:
    assert held(write_base(tmp_path / "base.gguf", type_name=type_name)) == ({}, [])


def test_weights_that_are_trained_themselves_are_in_no_blocks(tmp_path: Path) -> None:
    assert held(write_base(tmp_path / "base.gguf", type_name="Q4_0"), lora=None) == ({}, [])


@pytest.mark.parametrize("stage", ["qat", "output"])
def test_other_stages_leave_a_base_as_it_is(stage: str, tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf", type_name="Q8_0")
    assert held(path, {"bits": 4, "stage": stage})[0] == dict.fromkeys(MATRICES, "Q8_0")


def test_a_base_of_floats_is_packed_in_the_types_of_the_mix(tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf", type_name="F16")
    expected = dict.fromkeys(MATRICES, "Q4_0") | {OUTPUT: "Q8_0"}  # Q6_K, whose rows are multiples of 256
    assert held(path, {"bits": 4}) == (expected, [])
    section = {"type": "q4_0", "pure": True, "embedding_type": "f16", "tensor_types": {"ffn_down": "q8_0"}}
    chosen = dict.fromkeys(MATRICES - {EMBED}, "Q4_0")
    chosen |= {name: "Q8_0" for name in MATRICES if "ffn_down" in name}
    assert held(path, section) == (chosen, [])


def test_matrices_that_stay_dense_are_counted_and_one_is_named(tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf", base_spec(intermediate_size=48))
    found, (notice,) = held(path, {"bits": 4})
    assert found.keys() == {name for name in MATRICES if "ffn_down" not in name}
    assert notice.level == "info"
    assert notice.message == (
        "2 matrices stay in float32: their rows do not divide into q4_0 blocks (blk.0.ffn_down.weight has rows of 48)"
    )


def test_few_bits_are_not_quantized_again_unless_that_is_allowed(tmp_path: Path) -> None:
    path = write_base(tmp_path / "base.gguf", type_name="Q8_0")
    found, (notice,) = held(path, {"bits": 4})
    assert found == dict.fromkeys(MATRICES, "Q8_0")
    assert notice == Notice("info", "matrices that are in blocks already stay as they are: 16 of Q8_0")
    found, (kept, twice) = held(path, {"bits": 4, "allow_requantize": True})
    assert found == dict.fromkeys(MATRICES, "Q4_0") | {OUTPUT: "Q8_0"}
    assert kept.message.endswith("1 of Q8_0")
    assert twice.level == "warning"
    assert twice.message.startswith("matrices of few bits are quantized again, which loses quality: 15 of Q8_0")


@pytest.mark.parametrize(
    ("type_name", "sections", "says"),
    [
        (
            "F16",
            {},
            "the base is held in Q4_0 and Q8_0 while training; model.gguf is written in F16",
        ),
        ("Q4_0", {}, None),
        ("F16", {"output": {"type": "q4_0"}}, None),
        ("F16", {"output": {"merge_adapter": False}}, None),
        ("F16", {"quantize": None}, None),
    ],
)
def test_a_result_that_is_not_in_few_bits_is_said(
    type_name: str, sections: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    path = write_base(tmp_path / "base.gguf", type_name=type_name)
    content = {"model": {"path": str(path)}, "data": {"train": "t"}, "lora": {}, "quantize": {"bits": 4}, **sections}
    config, listener = Config.model_validate({k: v for k, v in content.items() if v is not None}), Listener()
    with GGUFFile.open(path) as file:
        say_how_it_is_written(config, file, held_types(config, file), listener)
    assert [one.message for one in listener.of(Notice)] == (
        [] if says is None else [f"{says}, as the base file is: output.type: q4_0 would write it in few bits"]
    )


def test_a_model_without_any_whole_block_is_refused(tmp_path: Path) -> None:
    spec = base_spec(hidden_size=48, num_heads=6, intermediate_size=80)
    with pytest.raises(ConfigError, match=r"no matrix of .* has rows of whole q4_0 blocks") as caught:
        held(write_base(tmp_path / "base.gguf", spec), {"bits": 4})
    assert caught.value.where == "quantize"


def test_types_are_named_from_the_most_frequent_on() -> None:
    assert described_types({"a": "Q6_K", "b": "Q4_K", "c": "Q4_K"}) == "Q4_K and Q6_K"
    assert described_types({"a": "Q6_K", "b": "Q4_K", "c": "F16"}) == "F16, Q4_K and Q6_K"
    assert described_types({"a": "Q4_0"}) == "Q4_0"
