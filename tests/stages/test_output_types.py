"""Which type each tensor of the result gets: its own, that of a mix, and what is kept or said on the way."""

from __future__ import annotations

from typing import Any

import pytest

from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice
from entrenar_core.gguf.keys import FileType
from entrenar_core.quant.mixes import ModelFacts
from entrenar_core.stages import output_types
from entrenar_core.stages.output_types import OutputTypes, plan_output_types, say_what_types_lose
from tests.train.tiny_model import Listener

Q, UP, EMBED, OUTPUT, NORM = (
    "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "token_embd.weight", "output.weight", "output_norm.weight",
)  # fmt: skip
SHAPES = {EMBED: (300, 32), Q: (32, 32), UP: (64, 32), NORM: (32,), OUTPUT: (300, 32)}


@pytest.fixture(autouse=True)
def all_types_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset(("F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q6_K"))
    monkeypatch.setattr(output_types, "ENCODABLE", known)


def config(**sections: Any) -> Config:
    content = {"model": {"path": "b.gguf"}, "data": {"train": "t.parquet"}, **sections}
    return Config.model_validate(content)


def sources(type_name: str, **others: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """All matrices of one type, and others by the last part of their name."""
    return {
        name: (shape, "F32" if len(shape) == 1 else others.get(name.split(".")[-2], type_name))
        for name, shape in SHAPES.items()
    }


def plan(present: dict[str, tuple[tuple[int, ...], str]], changed: set[str], **sections: Any) -> OutputTypes:
    return plan_output_types(present, changed, config(**sections), ModelFacts())


def said(found: OutputTypes) -> list[Notice]:
    listener = Listener()
    say_what_types_lose(found, listener)
    return listener.of(Notice)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q6_K"])
def test_auto_keeps_the_type_of_every_tensor_changed_or_not(type_name: str) -> None:
    present = sources(type_name)
    found = plan(present, {Q, NORM})
    assert found.types == {name: kind for name, (_, kind) in present.items()}
    assert found.file_type is None
    assert said(found) == []


def test_a_changed_tensor_that_nobody_encodes_becomes_q8_0_and_that_is_said() -> None:
    found = plan(sources("IQ2_S"), {Q, UP})
    assert found.types == {EMBED: "IQ2_S", Q: "Q8_0", UP: "Q8_0", NORM: "F32", OUTPUT: "IQ2_S"}
    (notice,) = said(found)
    assert notice.level == "warning"
    assert notice.message.endswith("can be read but not written become Q8_0: 2 of IQ2_S")


def test_a_changed_vector_in_blocks_becomes_f32() -> None:
    assert plan({NORM: ((32,), "Q8_0")}, {NORM}).types == {NORM: "F32"}
    assert plan({NORM: ((32,), "Q8_0")}, set()).types == {NORM: "Q8_0"}


@pytest.mark.parametrize("wanted", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_an_asked_for_type_is_that_of_all_matrices_and_vectors_stay(wanted: str) -> None:
    found = plan(sources("F16"), {Q}, output={"type": wanted})
    expected = dict.fromkeys(SHAPES, wanted.upper()) | {NORM: "F32"}
    if wanted == "q4_0":
        expected[OUTPUT] = "Q8_0"  # Q6_K, whose rows are multiples of 256
    assert found.types == expected
    assert found.file_type == FileType[wanted.upper()]


def test_tensors_of_few_bits_are_encoded_again_by_output_type_and_that_is_said() -> None:
    found = plan(sources("Q4_0"), {Q}, output={"type": "q8_0"})
    assert set(found.types.values()) == {"Q8_0", "F32"}
    (notice,) = said(found)
    assert (notice.level, notice.message.split(": ")[-1]) == ("warning", "3 of Q4_0")


def test_writing_few_bits_as_floats_loses_nothing_so_nothing_is_said() -> None:
    assert said(plan(sources("Q4_0"), {Q}, output={"type": "f16"})) == []


def test_quantize_leaves_untouched_tensors_of_few_bits_alone_and_says_so() -> None:
    found = plan(sources("Q8_0"), {Q}, quantize={"bits": 4, "stage": "output"})
    assert found.types == {EMBED: "Q8_0", Q: "Q4_0", UP: "Q8_0", NORM: "F32", OUTPUT: "Q8_0"}
    (notice,) = [notice for notice in said(found) if "stay as they are" in notice.message]
    assert (notice.level, "2 of Q8_0" in notice.message) == ("info", True)
    again = plan(sources("Q8_0"), {Q}, quantize={"bits": 4, "stage": "output", "allow_requantize": True})
    assert again.types[UP] == "Q4_0"
    assert again.requantized == {"Q8_0": 2}


def test_qat_is_written_in_the_types_of_its_mix() -> None:
    found = plan(sources("F16"), set(SHAPES), quantize={"type": "q8_0", "stage": "qat"})
    assert found.types == dict.fromkeys(SHAPES, "Q8_0") | {NORM: "F32"}


def test_rows_that_do_not_fit_get_another_type_and_that_is_said() -> None:
    found = plan(sources("F16"), {Q}, quantize={"type": "q4_k_m", "stage": "output"})
    assert found.types[Q] == "Q5_0"
    (notice,) = said(found)
    assert notice.message.endswith(": 3 of Q5_0")


def test_the_section_chooses_types_of_single_tensors() -> None:
    section = {
        "type": "q4_0", "pure": True, "output_type": "q8_0", "embedding_type": "f16", "stage": "output",
        "tensor_types": {"ffn_up": "q5_0"},
    }  # fmt: skip
    found = plan(sources("F32"), {Q}, quantize=section)
    assert found.types == {EMBED: "F16", Q: "Q4_0", UP: "Q5_0", NORM: "F32", OUTPUT: "Q8_0"}


def test_a_base_in_few_bits_says_nothing_of_the_written_types() -> None:
    found = plan(sources("F16"), {Q}, quantize={"bits": 4}, lora={"rank": 4})
    assert found.types == {name: "F32" if name == NORM else "F16" for name in SHAPES}


def test_a_type_that_cannot_be_written_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=rf"{EMBED} would be IQ4_NL, which can be read but not written"):
        plan(sources("F16"), {Q}, output={"type": "iq4_nl"})
    assert plan(sources("IQ4_NL"), {NORM}, output={"type": "iq4_nl"}).types[Q] == "IQ4_NL", "copied"
