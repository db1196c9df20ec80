"""What `entrenar eval` promises: the task that the data mean, figures that are right, and mistakes refused early."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.errors import ConfigError, DataError, EntrenarError, FormatError, OutputError, TokenizerError
from entrenar_core.evaluation.answers import AnswerResult
from entrenar_core.evaluation.choices import ChoiceResult
from entrenar_core.events import Notice, Progress, Saved
from entrenar_core.stages.evaluate import run_evaluation
from entrenar_core.stages.evaluate_head import HeadResult
from entrenar_core.stages.evaluate_perplexity import LikelihoodResult
from entrenar_core.stages.evaluation_output import EvaluationOutput
from entrenar_core.stages.evaluation_report import EvaluationReport
from entrenar_core.stages.evaluation_settings import (
    AnswerSettings,
    ChoiceSettings,
    EvaluationSettings,
    EvaluationTask,
)
from entrenar_core.stages.predict import PredictionSettings, run_predict
from tests.stages.head_folder import MOODS, STARS, write_run
from tests.stages.tiny_base import train, write_base, write_data
from tests.train.tiny_model import Listener

QUESTIONS = {
    "question": ["Ada saw a", "Bo saw a", "It was"],
    "choices": [["red ball.", "old key."]] * 3,
    "answer": [0, 1, 1],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``base.gguf`` and ``train.parquet``."""
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    return tmp_path


def evaluate(
    *models: Path,
    data: Path | str,
    output: Path | None = None,
    samples: Path | None = None,
    listener: Listener | None = None,
    **settings: Any,
) -> EvaluationReport:
    wanted = EvaluationSettings(**{"threads": 1, **settings})
    files = EvaluationOutput(output, samples, overwrite=False)
    return run_evaluation(models, str(data), settings=wanted, output=files, reporter=listener or Listener())


def write(folder: Path, columns: dict[str, Any], name: str = "test.parquet") -> Path:
    pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), folder / name)
    return folder / name


# perplexity


def test_the_loss_is_the_validation_loss_of_training(folder: Path) -> None:
    """A run that learns nothing validates on the base itself."""
    data = {"val": str(folder / "train.parquet")}
    _, listener = train(folder, data=data, optimizer={"lr": 1e-12}, training={"max_steps": 1})
    report = evaluate(folder / "base.gguf", data=folder / "train.parquet")
    (one,) = report.models
    assert isinstance(one.result, LikelihoodResult)
    assert one.result.cost.mean_nll.value == pytest.approx(listener.evaluations()[-1].loss, rel=1e-5)
    assert one.result.cost.value == pytest.approx(math.exp(one.result.cost.mean_nll.value))
    assert (report.task, report.models[0].model.architecture) == ("perplexity", "llama")


def test_a_run_is_its_model_read_as_it_was_trained(folder: Path) -> None:
    train(folder, training={"max_steps": 20}, data={"separator": " => "})
    run = folder / "run"
    as_trained = evaluate(run, data=folder / "train.parquet").models[0].result.figures["loss"]
    file = run / "model.gguf"
    same = evaluate(file, data=folder / "train.parquet", separator=" => ").models[0].result.figures["loss"]
    other = evaluate(file, data=folder / "train.parquet").models[0].result.figures["loss"]
    assert as_trained == pytest.approx(same, rel=1e-6) and abs(other - same) > 1e-3


def test_base_and_adapter_are_the_merged_model(folder: Path) -> None:
    train(folder, training={"max_steps": 20}, output={"type": "f32"})
    run, data = folder / "run", folder / "train.parquet"
    merged = evaluate(run, data=data).models[0].result.figures["loss"]
    beside = evaluate(folder / "base.gguf", data=data, adapter=run / "adapter.gguf").models[0].result.figures["loss"]
    (run / "model.gguf").unlink()
    alone = evaluate(run, data=data)
    assert merged == pytest.approx(beside, rel=1e-5)
    assert alone.models[0].result.figures["loss"] == pytest.approx(merged, rel=1e-5)
    assert str(run / "adapter.gguf") in alone.models[0].model.files
    (folder / "base.gguf").rename(folder / "moved.gguf")
    with pytest.raises(FormatError, match="the base model is not there"):
        evaluate(run, data=data)
    moved = evaluate(run, data=data, base=folder / "moved.gguf")
    assert moved.models[0].result.figures["loss"] == pytest.approx(merged, rel=1e-5)


def test_the_limit_counts_rows(folder: Path) -> None:
    listener = Listener()
    evaluate(folder / "base.gguf", data=folder / "train.parquet", limit=3, listener=listener)
    assert [event.total for event in listener.of(Progress) if event.task == "tokenizing"] == [3]


def test_texts_beside_a_label_are_read_as_texts(folder: Path) -> None:
    data = write(folder, {"text": ["Ada saw a red ball."] * 12, "label": ["good", "bad"] * 6})
    found = evaluate(folder / "base.gguf", data=data)
    assert found.task == "perplexity"


# multiple choice


def test_choices_are_found_by_their_columns(folder: Path) -> None:
    listener = Listener()
    report = evaluate(folder / "base.gguf", data=write(folder, QUESTIONS), listener=listener)
    assert report.task == EvaluationTask.MULTIPLE_CHOICE
    assert "'choices'" in report.reason
    assert any(report.reason in notice.message for notice in listener.of(Notice))
    result = report.models[0].result
    assert isinstance(result, ChoiceResult)
    assert (result.questions, result.chance) == (3, 0.5)


def test_template_shots_and_seed_shape_the_question(folder: Path) -> None:
    data = write(folder, {**QUESTIONS, "who": ["Ada", "Bo", "Cleo"]})
    shots = ChoiceSettings("{who}: {question}", shots=2, seed=1)
    first, again = (evaluate(folder / "base.gguf", data=data, choices=shots).document() for _ in range(2))
    assert first["models"][0]["result"] == again["models"][0]["result"]
    with pytest.raises(ConfigError, match="3 examples are wanted, and there are 2"):
        evaluate(folder / "base.gguf", data=data, choices=ChoiceSettings(shots=3))
    with pytest.raises(ConfigError, match="no column 'whom'"):
        evaluate(folder / "base.gguf", data=data, choices=ChoiceSettings("{whom}"))
    with pytest.raises(ConfigError, match="none are asked for"):
        evaluate(folder / "base.gguf", data=data, choices=ChoiceSettings(shots_data=str(data)))


def test_questions_beyond_the_context_are_cut_and_counted(folder: Path) -> None:
    data = write(folder, {**QUESTIONS, "question": ["Ada saw a red ball. " * 30, "Bo", "It"]})
    listener = Listener()
    result = evaluate(folder / "base.gguf", data=data, listener=listener).models[0].result
    assert isinstance(result, ChoiceResult)
    assert result.truncated == 1
    assert any("1 of 3 questions are longer than the context" in notice.message for notice in listener.of(Notice))


# exact match


SUMS = {"question": ["Ada saw a red ball.", "Bo saw a old key."], "answer": ["so it is\n#### 1,000", "hm #### -3."]}
GSM8K = AnswerSettings(regex="#### (-?[0-9.,]+)", max_tokens=8)


def test_a_regex_asks_for_answers_and_samples_say_what_was_asked(folder: Path) -> None:
    report = evaluate(folder / "base.gguf", data=write(folder, SUMS), answers=GSM8K, samples=folder / "s.jsonl")
    result = report.models[0].result
    assert report.task == EvaluationTask.EXACT_MATCH
    assert isinstance(result, AnswerResult)
    assert (result.questions, result.generated_tokens) == (2, 16)
    rows = [json.loads(line) for line in (folder / "s.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["expected"]) for row in rows] == [
        ("Ada saw a red ball.\n", "1,000"),
        ("Bo saw a old key.\n", "-3."),
    ]
    assert "samples" not in report.document()["models"][0]["result"]
    evaluate(folder / "base.gguf", data=folder / "test.parquet", answers=GSM8K, samples=folder / "s.parquet")
    assert pq.read_table(folder / "s.parquet").to_pylist() == rows


@pytest.mark.integration
def test_a_trained_model_gives_the_answers_of_its_data(folder: Path) -> None:
    train(folder, lora=None, training={"max_steps": 120}, data={"batch_size": 10})
    answers = AnswerSettings(regex=r"It was (\w+)'s", max_tokens=20)
    result = evaluate(folder / "run", data=folder / "train.parquet", answers=answers).models[0].result
    assert isinstance(result, AnswerResult)
    assert (result.accuracy.value, result.unfinished) == (1.0, 0)
    whole = evaluate(folder / "run", data=folder / "train.parquet", task=EvaluationTask.EXACT_MATCH).models[0].result
    assert whole.figures["accuracy"] == 1.0


CHAT = {"role": "user", "content": "Ada?"}, {"role": "assistant", "content": "#### 1"}


@pytest.mark.parametrize(
    ("columns", "template", "prompt"),
    [
        ({"instruction": ["Add."], "input": ["1 and 2"], "output": ["#### 3"]}, "none", "### Instruction:\nAdd."),
        ({"messages": [[*CHAT, *CHAT]]}, "chatml", "#### 1<|im_end|>\n<|im_start|>user\nAda?"),
        ({"prompt": ["Add."], "completion": ["#### 3"]}, "chatml", "<|im_start|>user\nAdd.<|im_end|>\n"),
    ],
    ids=["instruction", "chat", "pair with a template"],
)
def test_prompts_are_written_as_for_training(folder: Path, columns: Any, template: str, prompt: str) -> None:
    data = write(folder, columns)
    settings = {"answers": AnswerSettings(GSM8K.regex, max_tokens=2), "chat_template": template}
    evaluate(folder / "base.gguf", data=data, samples=folder / "s.jsonl", **settings)
    (row,) = [json.loads(line) for line in (folder / "s.jsonl").read_text().splitlines()]
    assert prompt in row["prompt"]
    assert not row["prompt"].endswith("#### 1")


def test_a_prompt_without_room_counts_as_wrong(folder: Path) -> None:
    listener = Listener()
    data = write(folder, {**SUMS, "question": ["Ada saw a red ball. " * 30, "Bo"]})
    result = evaluate(folder / "base.gguf", data=data, answers=GSM8K, listener=listener).models[0].result
    assert isinstance(result, AnswerResult)
    assert (result.too_long, result.questions) == (1, 2)
    assert any("1 of 2 prompts leave no room" in notice.message for notice in listener.of(Notice))


def test_rows_without_an_expected_answer_do_not_count(folder: Path) -> None:
    listener = Listener()
    data = write(folder, {"question": ["a b", "c d", None], "answer": ["#### 1", "no number", "#### 2"]})
    result = evaluate(folder / "base.gguf", data=data, answers=GSM8K, listener=listener).models[0].result
    assert isinstance(result, AnswerResult)
    assert result.questions == 1
    said = [notice.message for notice in listener.of(Notice)]
    assert any("in 1 rows the regex finds no expected answer" in message for message in said)
    assert any("1 rows have no question or no answer" in message for message in said)


def test_questions_that_cannot_be_asked_are_refused(folder: Path) -> None:
    base, data = folder / "base.gguf", write(folder, SUMS)
    said = refused(DataError, "finds no answer in any", base, data=data, answers=AnswerSettings(regex="= (.*)"))
    assert "#### 1,000" in said
    refused(ConfigError, "has no group", base, data=data, answers=AnswerSettings(regex="####"))
    refused(ConfigError, "max-tokens is 0", base, data=data, answers=AnswerSettings(GSM8K.regex, max_tokens=0))
    refused(ConfigError, "is empty", base, data=data, answers=AnswerSettings(GSM8K.regex, stop=("",)))
    refused(ConfigError, "temperature is -1", base, data=data, answers=AnswerSettings(GSM8K.regex, temperature=-1.0))
    refused(OutputError, "JSON lines or parquet", base, data=data, answers=GSM8K, samples=folder / "s.csv")
    refused(ConfigError, "perplexity has no samples", base, data=data, samples=folder / "s.jsonl")
    texts = write(folder, {"text": ["Ada saw a red ball."]}, "texts.parquet")
    refused(DataError, "texts, not questions", base, data=texts, task=EvaluationTask.EXACT_MATCH)


# heads


@pytest.mark.parametrize("limit", [None, 3])
def test_a_head_is_judged_as_predict_judges_it(tmp_path: Path, limit: int | None) -> None:
    write_run(tmp_path, MOODS)
    columns = {"review": ["Ada saw a red ball.", "Bo", "lamp", "boat boat"], "mood": ["good", "bad", "good", "odd"]}
    data = write(tmp_path, {key: values[:limit] for key, values in columns.items()}, "few.parquet")
    told = run_predict(
        tmp_path / "run", str(data), tmp_path / "p.parquet", settings=PredictionSettings(threads=1), reporter=Listener()
    )
    report = evaluate(tmp_path / "run", data=write(tmp_path, columns), limit=limit)
    result = report.models[0].result
    assert report.task == "classification"
    assert isinstance(result, HeadResult)
    assert result.metrics == told.metrics
    assert [one.name for one in result.classes] == list(MOODS.classes)
    assert sum(one.support for one in result.classes) == sum(mood != "odd" for mood in columns["mood"][:limit])
    assert sum(one.predicted for one in result.classes) == result.judged == (limit or 4)


def test_a_regression_has_no_classes(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    data = write(tmp_path, {"review": ["Ada", "Bo", None], "stars": [1.0, 4.0, 2.0]})
    report = evaluate(tmp_path / "run", data=data)
    result = report.models[0].result
    assert isinstance(result, HeadResult)
    assert (report.task, result.classes, result.judged, result.without_text) == ("regression", (), 2, 1)
    assert set(result.figures) == {"mse", "mae", "r2"}


def test_a_head_needs_the_truth(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    with pytest.raises(DataError, match="no column 'mood' with what is true"):
        evaluate(tmp_path / "run", data=write(tmp_path, {"review": ["Ada"]}))
    named = evaluate(tmp_path / "run", data=write(tmp_path, {"review": ["Ada"], "m": ["bad"]}), columns={"label": "m"})
    assert named.models[0].result.figures["accuracy"] is not None


# reports


def test_the_report_goes_to_the_file_and_to_the_folder_of_the_run(folder: Path) -> None:
    train(folder)
    listener, output = Listener(), folder / "out.json"
    models = (folder / "base.gguf", folder / "run")
    report = evaluate(*models, data=folder / "train.parquet", output=output, listener=listener)
    document = json.loads(output.read_text())
    assert document == json.loads(json.dumps(report.document()))
    assert [one["model"]["path"] for one in document["models"]] == [str(model) for model in models]
    own = json.loads((folder / "run" / "eval-perplexity.json").read_text())
    assert own["models"] == document["models"][1:]
    assert {event.path.name for event in listener.of(Saved)} == {"out.json", "eval-perplexity.json"}
    with pytest.raises(OutputError, match="there already"):
        evaluate(folder / "base.gguf", data=folder / "train.parquet", output=output)


def test_facts_of_a_model_are_those_of_its_files(folder: Path) -> None:
    write_base(folder / "small.gguf", type_name="Q8_0")
    one, other = evaluate(folder / "base.gguf", folder / "small.gguf", data=folder / "train.parquet").models
    assert one.model.n_bytes == (folder / "base.gguf").stat().st_size
    assert one.model.bits_per_weight == 32.0
    assert 8.5 < other.model.bits_per_weight < 9.5
    assert other.model.types == {"Q8_0": 16, "F32": 5}


def test_speed_is_measured_where_it_is_asked_for(folder: Path) -> None:
    (one,) = evaluate(folder / "base.gguf", data=folder / "train.parquet", measures_speed=True).models
    assert one.speed is not None
    assert (one.speed.read_tokens, one.speed.prompt_tokens, one.speed.generated_tokens) == (64, 16, 32)
    assert min(one.speed.reading, one.speed.generating) > 0


# mistakes


def refused(kind: type[EntrenarError], message: str, *models: Path, data: Path | str, **settings: Any) -> str:
    with pytest.raises(kind, match=message) as caught:
        evaluate(*models, data=data, **settings)
    return str(caught.value)


def test_what_is_no_model_is_refused_with_a_way_out(folder: Path) -> None:
    data = folder / "train.parquet"
    train(folder)
    (folder / "empty").mkdir()
    refused(FormatError, "there is no such file", folder / "absent.gguf", data=data)
    refused(FormatError, "there is no model in this folder", folder / "empty", data=data)
    assert "--adapter" in refused(FormatError, "is an adapter", folder / "run" / "adapter.gguf", data=data)
    checkpoint = folder / "run" / "checkpoints" / "step-000003"
    assert str(folder / "run") in refused(FormatError, "a checkpoint is no model yet", checkpoint, data=data)
    refused(FormatError, "says itself which adapter", folder / "run", data=data, adapter=folder / "run/adapter.gguf")
    refused(FormatError, "leave out --base", folder / "base.gguf", data=data, base=folder / "base.gguf")


def test_a_model_without_a_tokenizer_is_refused(folder: Path) -> None:
    write_base(folder / "mute.gguf", without=["tokenizer.ggml.tokens"])
    refused(TokenizerError, "tokens", folder / "mute.gguf", data=folder / "train.parquet")


def test_data_that_cannot_be_used_are_refused_before_a_model_is_loaded(folder: Path) -> None:
    base = folder / "base.gguf"
    refused(DataError, "does not exist", base, data=folder / "absent.parquet")
    refused(DataError, "no rows", base, data=write(folder, {"text": []}))
    refused(DataError, "column 'text' is empty", base, data=write(folder, {"text": [" ", None]}))
    refused(DataError, "nothing to predict", base, data=folder / "train.parquet", seq_len=2)
    refused(DataError, "no row has a question", base, data=write(folder, {**QUESTIONS, "answer": [None] * 3}))
    refused(ConfigError, "made for 64 tokens", base, data=folder / "train.parquet", seq_len=65)


@pytest.mark.parametrize("task", [EvaluationTask.CLASSIFICATION, EvaluationTask.REGRESSION])
def test_a_model_without_a_head_has_no_classes(folder: Path, task: EvaluationTask) -> None:
    refused(ConfigError, f"has no head for {task}", folder / "base.gguf", data=folder / "train.parquet", task=task)


def test_a_model_with_a_head_answers_with_it(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    data = write(tmp_path, {"review": ["Ada"], "mood": ["bad"]})
    refused(ConfigError, "answers with its head", tmp_path / "run", data=data, task=EvaluationTask.PERPLEXITY)
    refused(ConfigError, "cannot be compared", tmp_path / "run", tmp_path / "base.gguf", data=data)


def test_a_column_that_is_missing_is_named(folder: Path) -> None:
    said = refused(
        DataError,
        "no column 'prompts'",
        folder / "base.gguf",
        data=folder / "train.parquet",
        columns={"text": "prompts"},
    )
    assert "'prompt'" in said
