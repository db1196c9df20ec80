"""What a dry run says of a distillation is what the run does: objective, cache, memory, disk and steps."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.config.root import Config
from entrenar_core.config.student import Student
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.distill.student import StudentPlan, plan_student
from entrenar_core.events import RunStarted, SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import load_model
from entrenar_core.model.module import PassKey
from entrenar_core.optim.build import build_optimizer
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.distill import open_distillation
from entrenar_core.stages.distill_plan import at_full_load, made_of, stand_in, teach, written_shapes
from entrenar_core.stages.dry_pass import dry_pass
from entrenar_core.stages.dry_run import check_run, plan_run
from entrenar_core.stages.estimate import MAPPED, PREDICTED, TEACHERS
from entrenar_core.stages.plan_types import BlockPair, DistillPlan, RunPlan
from tests.model.tiny import build, pack, tiny_spec, tokens_of, write_model
from tests.stages.test_dry_pass import full_batch, sum_of
from tests.stages.tiny_base import base_spec, config, train, vocab_size, write_base, write_data

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model, and a teacher that is wider and deeper."""
    write_data(tmp_path)
    write_base(tmp_path / "base.gguf")
    write_base(tmp_path / "big.gguf", base_spec(hidden_size=64, num_layers=4), type_name="Q8_0")
    return tmp_path


def configured(folder: Path, distill: dict[str, Any] | None = None, **sections: Any) -> Config:
    return config(folder, distill={"teacher": str(folder / "big.gguf"), **(distill or {})}, **sections)


def plan_of(folder: Path, distill: dict[str, Any] | None = None, **sections: Any) -> RunPlan:
    return plan_run(configured(folder, distill, **sections), SilentReporter())


def taught(plan: RunPlan) -> DistillPlan:
    assert plan.distill is not None
    return plan.distill


def parts(plan: RunPlan) -> dict[str, int]:
    return dict(plan.memory.parts)


def test_the_objective_is_that_of_the_run_and_the_teacher_is_described(folder: Path) -> None:
    plan = taught(plan_of(folder, {"layers": "even"}))
    _, listener = train(folder, distill={"teacher": str(folder / "big.gguf"), "layers": "even"})
    assert plan.objective == listener.of(RunStarted)[0].objective
    assert plan.layers == (BlockPair(0, 1), BlockPair(1, 3))
    (teacher,) = plan.teachers
    assert (teacher.type, teacher.layers, teacher.hidden_size, teacher.share) == ("Q8_0", 4, 64, 1.0)
    assert teacher.n_bytes == (folder / "big.gguf").stat().st_size
    assert (plan.compared, plan.vocab_size, teacher.coverage) == (vocab_size(), vocab_size(), 1.0)


def test_a_check_says_the_same_before_anything_is_tokenized(folder: Path) -> None:
    section = {"cache": {"path": str(folder / "cache")}}
    checked = check_run(configured(folder, section), SilentReporter()).distill
    planned = taught(plan_of(folder, section))
    assert checked is not None and checked.cache is not None and planned.cache is not None
    unknown = {"targets": None, "n_bytes": None, "missing": None}
    assert checked == replace(planned, cache=replace(planned.cache, **unknown))


def test_shares_are_those_of_the_weights(folder: Path) -> None:
    teachers = [str(folder / "big.gguf"), {"path": str(folder / "base.gguf"), "weight": 3}]
    plan = taught(plan_of(folder, {"teacher": None, "teachers": teachers}))
    assert [teacher.share for teacher in plan.teachers] == [0.25, 0.75]


def test_a_cache_is_missing_until_it_is_made_and_needs_no_teacher_after(folder: Path) -> None:
    section = {"cache": {"path": str(folder / "cache"), "top_k": 8}}
    before = plan_of(folder, section)
    made = taught(before).cache
    assert made is not None
    assert made.missing == made.n_bytes == dict(before.disk.parts)["teacher cache"]
    assert {TEACHERS, PREDICTED} <= parts(before).keys()
    assert before.time is not None and "for the cache" in before.time.method
    train(folder, distill={"teacher": str(folder / "big.gguf"), **section})
    written = sum(file.stat().st_size for file in (folder / "cache").iterdir())
    assert made.n_bytes == pytest.approx(written, rel=0.05, abs=4096)
    after = plan_of(folder, section, training={"output_dir": str(folder / "other")})
    assert taught(after).cache == replace(made, missing=0)
    assert TEACHERS not in parts(after)
    assert "teacher cache" not in dict(after.disk.parts)


def test_a_teacher_takes_its_file_once_also_where_it_is_the_base(folder: Path) -> None:
    found = parts(plan_of(folder))
    assert found[TEACHERS] == (folder / "big.gguf").stat().st_size
    twice = parts(plan_of(folder, {"teacher": None, "teachers": [str(folder / "big.gguf")] * 2}))
    assert twice[TEACHERS] == found[TEACHERS]
    same = parts(plan_of(folder, {"teacher": str(folder / "base.gguf")}))
    assert same[MAPPED] == 0
    assert same[TEACHERS] == (folder / "base.gguf").stat().st_size


def test_a_teacher_that_is_only_a_mould_takes_no_memory(folder: Path) -> None:
    section = {"alpha": 0, "student": {"layers": 2}}
    assert TEACHERS not in parts(plan_of(folder, section, model=None, lora=None))
    assert TEACHERS in parts(plan_of(folder, {**section, "layers": "even"}, model=None, lora=None))


def test_learned_matrices_lie_in_checkpoints_and_not_in_the_model(folder: Path) -> None:
    plain, matched = (dict(plan_of(folder, section).disk.parts) for section in ({}, {"layers": "even"}))
    assert matched["checkpoints (up to 1)"] - plain["checkpoints (up to 1)"] > 3 * 4 * 2 * 64 * 32
    assert matched["model.gguf"] == plain["model.gguf"]
    assert matched["adapter.gguf"] == plain["adapter.gguf"]


def test_writing_takes_time(folder: Path) -> None:
    plan = plan_of(folder, {"on_policy": {"fraction": 0.25, "max_tokens": 32}})
    assert taught(plan).on_policy == "25% of the batches, up to 32 tokens after each prompt"
    assert plan.time is not None
    assert "the student's writing scaled up from 8 tokens" in plan.time.method


@pytest.mark.parametrize(
    "distill",
    [
        pytest.param({}, id="running"),
        pytest.param({"loss": "logit_mse", "alpha": 1.0}, id="logits"),
        pytest.param({"teachers": ["base.gguf", "big.gguf"], "teacher": None}, id="two"),
        pytest.param({"layers": "even", "hidden": {"attention": 1.0, "progressive": 50}}, id="layers"),
        pytest.param({"cache": {"path": "cache", "top_k": 4}}, id="cache"),
    ],
)
def test_the_passes_of_an_estimate_hold_what_real_ones_do(folder: Path, distill: dict[str, Any]) -> None:
    if "teachers" in distill:
        distill = {**distill, "teachers": [str(folder / name) for name in distill["teachers"]]}
    settings, reporter, shapes = configured(folder, distill, lora=None), SilentReporter(), [(4, 48), (2, 56)]
    base = open_base(settings, reporter)
    distillation = open_distillation(settings, base, reporter)
    assert distillation is not None and base.file is not None
    found = dry_pass(base.spec, settings.optimizer, shapes, teach=teach(settings, base, distillation), threads=2)
    full = at_full_load(distillation)
    with closing(CpuBackend(2)) as backend:
        student = load_model(base.file, backend, trainable=True)
        signal = stand_in(full, backend) or full.running(backend)
        learner = full.learner(student, signal, settings, base.tokenizer)
        optimizer = build_optimizer(settings.optimizer, learner.trainable())
        for number, shape in enumerate(shapes):
            batch = full_batch(*shape, None)
            with Tape() as tape:
                loss = learner.loss(batch, 1.0 / batch.n_supervised, PassKey(0, number, 0))
            tape.backward(loss)
            del loss, tape
            optimizer.step(0.001)
            optimizer.zero_grad()
        real = backend.pool.statistics().held
    base.close()
    distillation.close()
    assert sum_of(found) == pytest.approx(real, rel=0.05)


def planned(path: Path, **sizes: Any) -> StudentPlan:
    return plan_student(Student(**sizes), GGUFFile.open(path))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"layers": 4}, "all 4 blocks"),
        ({"layers": 1}, "block 0 of 4"),
        ({"layers": (1, 3)}, "blocks 1 and 3 of 4"),
        ({"layers": 3, "hidden": 12}, "blocks 0, 2 and 3 of 4; 12 of 16 channels"),
        (
            {"kv_heads": 2, "ffn": 20},
            "all 4 blocks; 4 of 8 heads; 2 of 4 key/value heads; 20 of 24 neurons of each block",
        ),
        ({"layers": 9, "init": "random"}, "random weights"),
    ],
)
def test_what_a_student_is_made_of_is_said_in_words(sizes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "t.gguf", tiny_spec(num_layers=4, num_heads=8, num_kv_heads=4))
    assert made_of(planned(path, **sizes)) == words


def test_of_many_blocks_the_first_and_the_last_are_named(tmp_path: Path) -> None:
    path = write_model(tmp_path / "t.gguf", tiny_spec(num_layers=80))
    words = made_of(planned(path, layers=40))
    assert words.startswith("blocks 0, 2, 4, ")
    assert words.endswith(" ... 79 of 80")


def test_the_plan_of_a_student_has_its_shape(folder: Path) -> None:
    student = {"layers": 2, "hidden": 32, "ffn": 48}
    plan = plan_of(folder, {"student": student}, model=None, lora=None)
    assert plan.method == "a student, made of blocks 0 and 3 of 4; 32 of 64 channels; 48 of 64 neurons of each block"
    found = taught(plan).student
    assert found is not None
    assert (found.layers, found.hidden_size, found.heads, found.intermediate_size) == (2, 32, 4, 48)
    assert found.parameters == plan.parameters == plan.trainable_parameters


def test_the_largest_written_batch_is_that_of_the_run_within_the_shortest_context() -> None:
    writer = OnPolicy(1.0, max_tokens=40, prompt_tokens=3, temperature=1.0, top_p=1.0, stop_ids=(), vocab_size=40)
    model = build(tiny_spec(context_length=32), trainable=False)
    batch = pack([[tokens_of(9)], [tokens_of(5)]], 12)
    for one in (writer, replace(writer, context_length=16), replace(writer, max_tokens=6)):
        written = one.written(model, batch, PassKey(1, 0, 0))
        assert written is not None and written_shapes(one, 32, [batch]) == [written.tokens.shape]
    assert written_shapes(replace(writer, context_length=4), 32, [batch]) == []
