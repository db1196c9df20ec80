"""A plan holds what the run that follows does: the same steps, examples, tokens, evaluations and checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.data import load as loading
from entrenar_core.events import Eval, Finished, Notice, RunStarted, SilentReporter, Step
from entrenar_core.stages import dry_run
from entrenar_core.stages.dry_run import CheckedRun, check_run, plan_run
from entrenar_core.stages.plan_types import RunPlan, SamplePreview
from tests.e2e.command import tree
from tests.stages.tiny_base import NAMES, NEW_MODEL, THINGS, config, stories, train, write_base, write_data
from tests.train.tiny_model import Listener

ONE_EPOCH: dict[str, Any] = {"max_steps": None, "epochs": 1}
TWO_EPOCHS: dict[str, Any] = {"max_steps": None, "epochs": 2}
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _turns(name: str, thing: str) -> list[dict[str, str]]:
    said = (("user", name), ("assistant", f"a {thing}"), ("user", "and"), ("assistant", "no"))
    return [{"role": role, "content": content} for role, content in said]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and the stories in every form."""
    folder = tmp_path_factory.mktemp("inputs")
    write_base(folder / "base.gguf")
    write_data(folder, text=True).rename(folder / "text.parquet")
    write_data(folder)
    pairs = stories()
    write_rows(folder / "instructions.jsonl", *({"instruction": one, "output": other} for one, other in pairs))
    write_rows(folder / "chat.jsonl", *({"messages": _turns(name, thing)} for name in NAMES for thing in THINGS))
    texts = [one for one, _ in pairs]
    pq.write_table(pa.table({"review": texts, "label": ["good", "bad"] * 10}), folder / "moods.parquet")
    pq.write_table(pa.table({"review": texts, "score": [one / 4 for one in range(20)]}), folder / "stars.parquet")
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    """The inputs, and room for one run."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def kinds(folder: Path) -> dict[str, dict[str, Any]]:
    """Runs of every kind, as changes of the LoRA run of three steps."""
    sources = [
        str(folder / "train.parquet"),
        {"path": str(folder / "text.parquet"), "weight": 2},
        {"path": str(folder / "instructions.jsonl"), "weight": 0.5},
    ]
    return {
        "lora": {},
        "full": {"lora": None, "data": {"val_fraction": 0.2}, "training": ONE_EPOCH},
        "quantized": {"lora": None, "quantize": {"bits": 8}, "training": ONE_EPOCH},
        "text": {
            "data": {"train": str(folder / "text.parquet"), "packing": True, "val_fraction": 0.25, "seq_len": 32},
            "training": {**TWO_EPOCHS, "grad_accum": 3, "eval_every": 2, "save_every": 2, "keep_last": 9},
        },
        "cut": {"data": {"seq_len": 12}, "training": ONE_EPOCH},
        "chat": {"data": {"train": str(folder / "chat.jsonl"), "chat_template": MARKED}, "training": TWO_EPOCHS},
        "classification": {
            "data": {"train": str(folder / "moods.parquet"), "val_fraction": 0.2},
            "training": ONE_EPOCH,
        },
        "regression": {"data": {"train": str(folder / "stars.parquet")}, "training": TWO_EPOCHS},
        "sources": {"data": {"train": sources, "chat_template": "none"}, "training": TWO_EPOCHS},
        "scratch": {"model": NEW_MODEL, "lora": None, "data": {"seq_len": 24}, "training": ONE_EPOCH},
        "qlora": {"quantize": {"bits": 4}, "training": ONE_EPOCH},
        "streamed": {"data": {"train": str(folder / "text.parquet"), "streaming": True}, "training": {"max_steps": 5}},
    }


KINDS = list(kinds(Path()))


def plan(folder: Path, **sections: Any) -> RunPlan:
    return plan_run(config(folder, **sections), SilentReporter())


def check(folder: Path, **sections: Any) -> CheckedRun:
    return check_run(config(folder, **sections), SilentReporter())


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_what_the_run_then_does(kind: str, folder: Path) -> None:
    sections = kinds(folder)[kind]
    planned = plan(folder, **sections)
    _, listener = train(folder, **sections)
    started, steps = listener.of(RunStarted)[0], listener.of(Step)

    assert (planned.model, planned.architecture) == (started.model, started.architecture)
    assert (planned.parameters, planned.trainable_parameters) == (started.parameters, started.trainable_parameters)
    assert planned.steps.steps == started.total_steps == len(steps)
    assert planned.steps.epochs == pytest.approx(steps[-1].epoch)
    assert planned.steps.evaluations == len(listener.of(Eval))
    assert planned.steps.checkpoints == len(list((folder / "run" / "checkpoints").iterdir()))
    assert planned.output_dir == str(started.output_dir)
    if kind != "sources":
        assert planned.train_tokens.samples == started.train_examples
    assert (planned.val_tokens.samples if planned.val_tokens else 0) == started.val_examples


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lora", "streamed")])
def test_the_tokens_of_a_plan_are_those_of_the_metrics(kind: str, folder: Path) -> None:
    sections = kinds(folder)[kind]
    planned = plan(folder, **sections)
    train(folder, **sections)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    epochs = planned.steps.epochs
    assert sum(line["supervised_tokens"] for line in steps) == pytest.approx(
        planned.train_tokens.supervised_tokens * epochs
    )
    assert sum(line["tokens"] for line in steps) == pytest.approx(planned.train_tokens.total_tokens * epochs)
    for line in lines:
        if line["event"] == "eval":
            assert planned.val_tokens is not None
            assert line["supervised_tokens"] == planned.val_tokens.supervised_tokens


def test_the_tokens_of_a_stream_are_an_estimate_from_its_beginning(folder: Path) -> None:
    """All rows lie in the first segment here, so that it is exact."""
    data = {"train": str(folder / "text.parquet")}
    whole = plan(folder, data=data).train_tokens
    streamed = plan(folder, data=data | {"streaming": True}).train_tokens
    assert streamed == replace(whole, is_estimate=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written(kind: str, folder: Path) -> None:
    sections = kinds(folder)[kind]
    settings = config(folder, **sections)
    before = tree(folder)
    check_run(settings, SilentReporter())
    plan_run(settings, SilentReporter())
    assert tree(folder) == before


def test_tokens_that_a_plan_has_made_are_kept_for_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WORTH_CACHING", 0)
    cache = folder / "cache"
    plan(folder, data={"cache_dir": str(cache)})
    assert len(list(cache.iterdir())) == 1
    _, listener = train(folder, data={"cache_dir": str(cache)})
    assert any("tokens found in the cache" in notice.message for notice in listener.of(Notice))


def test_without_a_cache_a_plan_leaves_no_tokens_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WORTH_CACHING", 0)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home" / "cache"))
    plan(folder, data={"cache": False})
    assert not (folder / "home").exists()


# -- what is said of the data ---------------------------------------------------------------------------------------


def test_each_column_says_what_it_is_used_for_and_why(folder: Path) -> None:
    columns = {"id": range(20), "review": [one for one, _ in stories()], "mood": ["good", "bad"] * 10}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "train.parquet")
    (source,) = check(folder).train
    assert (source.task, source.rows, source.reason) == ("classification", 20, "inferred from its columns")
    assert [(one.name, one.role) for one in source.columns] == [("id", None), ("review", "text"), ("mood", "label")]
    assert all(one.kind and one.reason for one in source.columns)


def test_several_sources_keep_their_weights_and_tasks(folder: Path) -> None:
    planned = plan(folder, **kinds(folder)["sources"])
    assert [(Path(one.path).name, one.weight, one.task) for one in planned.train] == [
        ("train.parquet", 1.0, "prompt_completion"),
        ("text.parquet", 2.0, "text"),
        ("instructions.jsonl", 0.5, "instruction"),
    ]
    assert planned.train_tokens.samples == 20 + 2 * 20 + 20 // 2
    assert [Path(one.source).name for one in planned.previews] == [
        "train.parquet",
        "text.parquet",
        "instructions.jsonl",
    ]


def test_validation_data_are_listed_beside_the_training_data(folder: Path) -> None:
    val = shutil.copy(folder / "train.parquet", folder / "val.parquet")
    checked = check(folder, data={"val": str(val)})
    assert [Path(one.path).name for one in checked.val] == ["val.parquet"]
    assert checked.val[0].task == "prompt_completion"


def test_refused_and_cut_rows_are_counted(folder: Path) -> None:
    table = pa.table({"prompt": ["Ada", None, "Bo"], "completion": ["saw a red ball. " * 20, "x", " "]})
    pq.write_table(table, folder / "train.parquet")
    counts = plan(folder).train_tokens
    assert (counts.samples, counts.refused, counts.overlong_samples) == (1, {"null": 1, "empty": 1}, 1)
    assert counts.truncated_tokens > 0
    assert counts.total_tokens == 64


# -- previews -------------------------------------------------------------------------------------------------------


def learned(sample: SamplePreview) -> str:
    return "".join(segment.text for segment in sample.segments if segment.is_trained)


def context(sample: SamplePreview) -> str:
    return "".join(segment.text for segment in sample.segments if not segment.is_trained)


END = "<|endoftext|>"


def test_the_completion_and_its_stop_token_are_marked(folder: Path) -> None:
    for sample, (prompt, completion) in zip(plan(folder).previews, stories(), strict=False):
        assert (context(sample), learned(sample)) == (f"{prompt}\n", f"{completion}{END}")


def test_a_prompt_that_is_trained_too_is_marked(folder: Path) -> None:
    """Up to its first token, which has nothing before it to be predicted from."""
    (prompt, completion), sample = stories()[0], plan(folder, data={"train_on_prompt": True}).previews[0]
    assert f"{context(sample)}{learned(sample)}" == f"{prompt}\n{completion}{END}"
    assert sample.supervised == sample.tokens


@pytest.mark.parametrize(("turns", "answers"), [("all", f"a red ball{END}no{END}"), ("last", f"no{END}")])
def test_the_turns_of_the_assistant_are_marked(folder: Path, turns: str, answers: str) -> None:
    data = {"train": str(folder / "chat.jsonl"), "chat_template": MARKED, "train_turns": turns}
    sample = plan(folder, data=data).previews[0]
    assert learned(sample) == answers
    assert context(sample).startswith(f"<user>Ada{END}<assistant>")


def test_the_class_or_number_that_a_head_shall_say_is_marked(folder: Path) -> None:
    (text, _), moods = stories()[0], plan(folder, data={"train": str(folder / "moods.parquet")}).previews
    assert [learned(sample) for sample in moods] == [" → good", " → bad", " → good"]
    assert context(moods[0]) == f"{text}{END}"
    stars = plan(folder, data={"train": str(folder / "stars.parquet")}).previews
    assert [learned(sample) for sample in stars] == [" → 0", " → 0.25", " → 0.5"]


def test_the_counts_of_a_preview_are_those_of_the_whole_example(folder: Path) -> None:
    for sample in plan(folder).previews:
        assert 0 < sample.supervised < sample.tokens


def test_a_preview_of_a_stream_shows_its_first_rows(folder: Path) -> None:
    samples = plan(folder, **kinds(folder)["streamed"]).previews
    texts = {" ".join(pair) for pair in stories()}
    assert {f"{context(sample)}{learned(sample)}".removesuffix(END) for sample in samples} <= texts


# -- memory ---------------------------------------------------------------------------------------------------------


def with_memory(monkeypatch: pytest.MonkeyPatch, n_bytes: int | None) -> None:
    monkeypatch.setattr(dry_run, "available_memory_bytes", lambda: n_bytes)


def test_a_run_that_fits_is_timed(folder: Path) -> None:
    planned = plan(folder)
    assert planned.memory_verdict.fits
    assert planned.time is not None
    assert planned.time.seconds == pytest.approx(planned.time.seconds_per_step * 3)


def test_one_that_does_not_fit_is_not_built_and_a_change_is_proposed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = plan(folder).memory.needed
    with_memory(monkeypatch, needed - 1)
    planned = plan(folder)
    assert not planned.memory_verdict.fits
    assert planned.time is None
    assert planned.memory_verdict.change is not None
    assert "data.batch_size: 2" in planned.memory_verdict.change.keys
    assert planned.memory_verdict.change.needed < needed
    assert any("does not fit" in warning for warning in planned.warnings)


def test_where_nothing_helps_nothing_is_proposed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, 1 << 20)
    verdict = plan(folder).memory_verdict
    assert (verdict.fits, verdict.change) == (False, None)


def test_unknown_memory_is_no_reason_to_refuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, None)
    planned = plan(folder)
    assert planned.memory_verdict.available is None
    assert planned.time is not None


# -- what it says beside --------------------------------------------------------------------------------------------


def test_warnings_of_the_data_are_kept_for_the_end(folder: Path) -> None:
    listener = Listener()
    pq.write_table(pa.table({"prompt": ["Ada", None], "completion": ["saw it", "x"]}), folder / "train.parquet")
    planned = plan_run(config(folder), listener)
    assert listener.of(Notice) == listener.of(Finished) == []
    assert any("1 of 2 rows refused: 1 null" in warning for warning in planned.warnings)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("lora", "LoRA of rank 4 on all"),
        ("full", "all weights"),
        ("scratch", "a new model from random weights"),
        (
            "qlora",
            "LoRA of rank 4 on all on a base in Q4_0 and Q8_0 blocks (QLoRA); written in the types of the base file",
        ),
        ("quantized", "all weights; written as q8_0"),
        ("classification", "LoRA of rank 4 on all, and a head for classification into 2 classes (bad, good)"),
    ],
)
def test_the_method_is_said_in_words(kind: str, method: str, folder: Path) -> None:
    assert check(folder, **kinds(folder)[kind]).method == method


def test_a_chat_template_by_name_is_what_is_previewed(folder: Path) -> None:
    data = {"train": str(folder / "chat.jsonl"), "chat_template": "zephyr", "seq_len": 64}
    assert "<|user|>" in context(plan(folder, data=data).previews[0])
