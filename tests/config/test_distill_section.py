"""The section distill: what it means, what it fills in, and what it excludes."""

from __future__ import annotations

import pytest

from entrenar_core.config.distill import Distill, Teacher
from entrenar_core.config.load import config_from_text
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.resolved import resolved_yaml
from entrenar_core.config.root import Config

HEAD = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"
NEW = "data: {train: a.parquet}\n"


def read(text: str, head: str = HEAD) -> Config:
    return config_from_text(head + text, "t.yaml")


def distill(text: str, head: str = HEAD) -> Distill:
    section = read(f"distill: {{{text}}}", head).distill
    assert section is not None
    return section


def problem(text: str, head: str = HEAD) -> str:
    with pytest.raises(ConfigProblems) as caught:
        read(text, head)
    [only] = caught.value.problems
    return str(only)


def test_a_teacher_is_all_that_is_needed() -> None:
    section = distill("teacher: big.gguf")
    assert section.all_teachers == (Teacher(path="big.gguf", weight=1.0),)
    assert (section.loss, section.temperature, section.alpha) == ("forward_kl", 2.0, 0.5)
    assert (section.layers, section.cache, section.on_policy, section.student) == (None, None, None, None)


def test_several_teachers_are_paths_with_weights() -> None:
    section = distill("teachers: [a.gguf, {path: b.gguf, weight: 2}], combine: Confidence")
    assert section.all_teachers == (Teacher(path="a.gguf"), Teacher(path="b.gguf", weight=2.0))
    assert section.combine == "confidence"


@pytest.mark.parametrize(
    ("written", "kept"),
    [("EVEN", "even"), ("[3, 0]", (3, 0)), ("{0: 3, 5: 11}", {0: 3, 5: 11}), ("{'1': 1}", {1: 1})],
)
def test_blocks_that_are_matched_are_written_in_three_ways(written: str, kept: object) -> None:
    assert distill(f"teacher: t, layers: {written}").layers == kept


@pytest.mark.parametrize("written", ["first", "[]", "[-1]", "[1, 1]", "{a: 1}", "{0: -1}", "{0: true}", "3", "{}"])
def test_other_ways_to_write_blocks_are_refused(written: str) -> None:
    assert "distill.layers: value" in problem(f"distill: {{teacher: t, layers: {written}}}")


@pytest.mark.parametrize(("written", "kept"), [("6", 6), ("[0, 2, 5]", (0, 2, 5))])
def test_blocks_of_a_student_are_a_number_or_a_list(written: str, kept: object) -> None:
    student = distill(f"teacher: t, student: {{layers: {written}}}", NEW).student
    assert student is not None
    assert (student.layers, student.init) == (kept, "from_teacher")


@pytest.mark.parametrize("written", ["0", "[]", "[2, 0]", "[1, 1]", "[-1]", "all"])
def test_other_ways_to_write_blocks_of_a_student_are_refused(written: str) -> None:
    assert "distill.student.layers: value" in problem(f"distill: {{teacher: t, student: {{layers: {written}}}}}", NEW)


def test_a_student_needs_no_model_section() -> None:
    config = read("distill: {teacher: t, student: {layers: 2}}", NEW)
    assert (config.model.path, config.model.architecture) == (None, None)


def test_the_shape_of_the_teacher_with_random_weights_needs_no_sizes() -> None:
    student = distill("teacher: t, student: {init: random}", NEW).student
    assert student is not None
    assert (student.layers, student.init) == (None, "random")


@pytest.mark.parametrize(
    "text",
    [
        "distill: {teacher: t}",
        "distill: {teacher: t, loss: logit_mse}",
        "distill: {teacher: t, loss: jensen_shannon, beta: 0.1, layers: {0: 1}, hidden: {attention: 0.5}}",
        "distill: {teachers: [a, b], combine: confidence, on_policy: {}}",
        "distill: {teacher: t, cache: {path: c}}",
    ],
)
def test_what_is_resolved_reads_back_as_the_same(text: str) -> None:
    config = read(text)
    assert config_from_text(resolved_yaml(config), "resolved.yaml") == config


def test_a_student_reads_back_as_the_same() -> None:
    config = read("distill: {teacher: t, alpha: 0, student: {layers: [0, 2], heads: 4}}", NEW)
    assert config_from_text(resolved_yaml(config), "resolved.yaml") == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("distill: {teacher: t}\nlora: {rank: 4}\nquantize: {bits: 4}", None),
        ("distill: {teacher: t}\nquantize: {bits: 4, stage: qat}", None),
        ("distill: {teacher: t}\nmerge: {method: ties}", None),
        ("distill: {teacher: t, alpha: 0}", "distill.alpha: 0 takes nothing from the teacher"),
        ("distill: {teacher: t, alpha: 0, layers: even}", None),
        ("distill: {teacher: t, alpha: 0, on_policy: {}}", None),
        ("distill: {teacher: t, layers: even, cache: {path: c}}", "distill.cache: has predictions, and no hidden"),
        ("distill: {teachers: [t], combine: mean}", "distill.combine: needs several teachers"),
        ("distill: {temperature: 1}", "distill.teacher: required key is missing; name a GGUF file"),
        ("distill: {teacher: t, hidden: {loss: mse}}", "distill.hidden: says how hidden states are matched"),
        ("distill: {teacher: t, layers: even, hidden: {weight: 0}}", "distill.hidden.weight: nothing is matched"),
        ("distill: {teacher: t, layers: even, hidden: {weight: 0, attention: 1}}", None),
        ("distill: {teacher: t, student: {layers: 2}}", "model.path: cannot go together with distill.student"),
    ],
)
def test_what_goes_together_with_a_teacher(text: str, says: str | None) -> None:
    if says is None:
        assert read(text).distill is not None
    else:
        assert says in problem(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("quantize: {bits: 4, stage: qat}", None),
        ("quantize: {bits: 4}", None),
        ("quantize: {bits: 4, stage: base}", "quantize.stage: base holds a frozen model"),
        ("lora: {}", "lora: adapts a frozen model"),
        ("lora: {}\nquantize: {bits: 4}", "lora: adapts a frozen model"),
        ("merge: {method: ties}", "merge: needs a base model in model.path, and distill.student makes a new one"),
        ("model: {layers: [q_proj]}", "model.layers: cannot go together with distill.student"),
        ("model: {tokenizer: t.gguf}", "model.tokenizer: cannot go together with distill.student"),
    ],
)
def test_what_goes_together_with_a_student(text: str, says: str | None) -> None:
    text = f"distill: {{teacher: t, student: {{layers: 2}}}}\n{text}"
    if says is None:
        assert read(text, NEW).distill is not None
    else:
        assert says in problem(text, NEW)


def test_what_nobody_learns_is_not_kept() -> None:
    text = "distill: {teacher: t, alpha: 0, student: {layers: 2}, cache: {path: c}}"
    assert "distill.cache: keeps predictions, and with alpha 0 none are learned; remove it" in problem(text, NEW)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_heads_have_no_teachers(task: str) -> None:
    head = f"model: {{path: b}}\ndata: {{train: [{{path: a, task: {task}}}]}}\n"
    assert f"data.train[0].task: {task} trains a head of its own" in problem("distill: {teacher: t}", head)
