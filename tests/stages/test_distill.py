"""Teachers as a config names them: what is opened, compared, refused and said before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.errors import ConfigError, FormatError
from entrenar_core.events import Notice
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.distill import Distillation, open_distillation
from tests.stages.tiny_base import base_spec, config, tokenizer_entries, vocab_size, write_base, write_data
from tests.train.tiny_model import Listener


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf")
    write_base(tmp_path / "big.gguf", base_spec(hidden_size=64, num_layers=4), type_name="Q8_0")
    return tmp_path


def opened(folder: Path, **distill: Any) -> tuple[Distillation, list[str]]:
    """The section opened beside `base.gguf`, and what was said."""
    listener = Listener()
    section = {"teacher": str(folder / "big.gguf"), **distill}
    settings = config(folder, distill={key: value for key, value in section.items() if value is not None})
    base = open_base(settings, listener)
    try:
        found = open_distillation(settings, base, listener)
    finally:
        base.close()
    assert found is not None
    found.close()
    return found, [event.message for event in listener.events if isinstance(event, Notice)]


def renamed(count: int, rows: int = 0) -> list[tuple[str, MetadataValue]]:
    """The tokenizer with its last `count` tokens called otherwise, and `rows` more of padding."""
    texts = list(dict(tokenizer_entries())["tokenizer.ggml.tokens"].value)
    texts[len(texts) - count :] = [f"other{number}" for number in range(count)]
    texts += [f"[PAD{len(texts) + number}]" for number in range(rows)]
    kinds = [1] * (len(texts) - rows) + [5] * rows
    return [
        ("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, texts)),
        ("tokenizer.ggml.token_type", MetadataValue.array(ValueType.INT32, kinds)),
        ("tokenizer.ggml.merges", MetadataValue.array(ValueType.STRING, [])),
    ]


def test_a_teacher_is_known_by_its_file_type_size_and_share(folder: Path) -> None:
    found, said = opened(folder)
    (one,) = found.teachers
    assert (one.path, one.main_type, one.share) == (str(folder / "big.gguf"), "Q8_0", 1.0)
    assert one.file_bytes == (folder / "big.gguf").stat().st_size and one.spec.num_layers == 4
    assert found.coverage == 1.0 and found.layer_map == () and said == []
    assert found.describe() == "0.5 × forward KL at temperature 2 from big.gguf (Q8_0) + 0.5 × cross-entropy"


def test_the_objective_is_said_with_all_its_parts(folder: Path) -> None:
    hidden = {"loss": "cosine", "weight": 0.1, "attention": 2.0}
    found, _ = opened(folder, alpha=1, loss="logit_mse", layers="even", hidden=hidden)
    assert found.describe() == (
        "1 × squared error of logits from big.gguf (Q8_0) + 0.1 × cosine distance of 2 hidden states"
        " + 2 × divergence of their attention"
    )
    assert [(pair.student, pair.teacher) for pair in found.layer_map] == [(0, 1), (1, 3)]


def test_shares_of_several_teachers_sum_to_one(folder: Path) -> None:
    teachers = [{"path": str(folder / "big.gguf"), "weight": 3}, str(folder / "base.gguf")]
    found, _ = opened(folder, teacher=None, teachers=teachers)
    assert [one.share for one in found.teachers] == [0.75, 0.25]
    assert found.describe().count(" and base.gguf (F32)") == 1
    assert len(set(found.digests().values())) == 2 and set(found.digests()) == {
        "distill.teachers.0",
        "distill.teachers.1",
    }


def test_padding_of_the_embedding_is_said_and_not_compared(folder: Path) -> None:
    spec = base_spec(vocab_size=vocab_size() + 12)
    write_base(folder / "big.gguf", spec, extra=renamed(0, rows=12))
    found, said = opened(folder)
    assert found.vocabulary.n == vocab_size() and found.vocabulary.columns is None and said == []


def test_other_tokens_are_mapped_and_their_share_is_said(folder: Path) -> None:
    write_base(folder / "big.gguf", extra=renamed(4))
    found, said = opened(folder)
    assert found.vocabulary.n == vocab_size() - 4
    assert len(said) == 1 and f"has {vocab_size() - 4} of {vocab_size()} tokens of the student" in said[0]


def test_too_few_common_tokens_are_refused(folder: Path) -> None:
    write_base(folder / "big.gguf", extra=renamed(100))
    with pytest.raises(ConfigError, match=r"distill\.min_coverage is 90\.0%"):
        opened(folder)
    assert opened(folder, min_coverage=0.5)[0].coverage < 0.9


def test_teachers_that_cannot_be_used_are_refused(folder: Path) -> None:
    with pytest.raises(FormatError, match=r"no such file|there is no"):
        opened(folder, teacher=str(folder / "absent.gguf"))
    with pytest.raises(ConfigError, match="block 7: the student has 2"):
        opened(folder, layers=[7])
    write_base(folder / "big.gguf", without=["tokenizer.ggml.tokens"])
    with pytest.raises(ConfigError, match="the teacher has no tokenizer"):
        opened(folder)


def test_examples_longer_than_the_teacher_can_read_are_refused(folder: Path) -> None:
    write_base(folder / "big.gguf", replace(base_spec(), context_length=16))
    found, _ = opened(folder)
    found.check_length(16)
    with pytest.raises(ConfigError, match="was made for 16 tokens"):
        found.check_length(17)


def test_no_section_is_no_distillation(folder: Path) -> None:
    listener = Listener()
    settings = config(folder)
    base = open_base(settings, listener)
    assert open_distillation(settings, base, listener) is None
    base.close()
