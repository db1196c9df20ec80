"""What `predict` promises: every row in its place with the answer that the model gives, and nothing written in vain."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.errors import DataError, EntrenarError, FormatError, OutputError
from entrenar_core.events import Notice, Predicted, Progress
from entrenar_core.lora.files import read_adapter
from entrenar_core.model.heads import HeadSpec
from entrenar_core.stages.predict import PredictionSettings, run_predict
from tests.model.tiny import lively_weights
from tests.stages.head_folder import MOODS, STARS, expected_outputs, write_run
from tests.stages.tiny_base import base_spec, write_base
from tests.train.tiny_model import Listener

TEXTS = ["Ada saw a red ball.", "Bo", "It was Cleo's old key. It was Dan's old key.", "green lamp", "boat boat boat"]
WHOLE = ["review", "prediction", "probability", "probability_bad", "probability_good", "probability_so-so"]


def predict(folder: Path, data: str | None = None, **settings: Any) -> tuple[pa.Table, Predicted, Listener]:
    """The table that is written, what was returned and what was reported."""
    listener, output = Listener(), folder / "predictions.parquet"
    wanted = PredictionSettings(**{"threads": 1, **settings})
    event = run_predict(folder / "run", data or str(folder / "new.parquet"), output, settings=wanted, reporter=listener)
    return pq.read_table(output), event, listener


def write_new(folder: Path, **columns: Sequence[Any]) -> None:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "new.parquet")


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


# -- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "whole model"])
def test_every_row_gets_its_class_and_the_probabilities_of_all(tmp_path: Path, adapter: bool) -> None:
    model = write_run(tmp_path, MOODS, adapter=adapter)
    write_new(tmp_path, review=TEXTS)
    table, event, _ = predict(tmp_path)
    assert table.column_names == WHOLE
    assert table["review"].to_pylist() == TEXTS
    for row, text in zip(table.to_pylist(), TEXTS, strict=True):
        expected = softmax(expected_outputs(model, text))
        found = [row[f"probability_{name}"] for name in MOODS.classes]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert row["prediction"] == MOODS.classes[int(expected.argmax())]
        assert row["probability"] == max(found)
    assert (event.rows, event.without_text, event.truncated, event.judged) == (5, 0, 0, 0)
    assert event.metrics == {}


def test_numbers_are_predicted_in_their_own_units(tmp_path: Path) -> None:
    model = write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS)
    table, *_ = predict(tmp_path)
    assert table.column_names == ["review", "prediction"]
    expected = [3.0 + 1.5 * float(expected_outputs(model, text)[0]) for text in TEXTS]
    np.testing.assert_allclose(table["prediction"].to_pylist(), expected, rtol=1e-3, atol=1e-3)


def test_the_base_is_held_in_the_blocks_that_it_was_trained_in(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS)
    dense = predict(tmp_path)[0]["prediction"].to_numpy()
    resolved = tmp_path / "run" / "config.resolved.yaml"
    resolved.write_text(resolved.read_text().replace("quantize: null", "quantize: {type: q4_0}"))
    packed = predict(tmp_path)[0]["prediction"].to_numpy()
    assert 1e-3 < np.abs(packed - dense).max() < 3


def test_answers_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS * 5)
    answers = [predict(tmp_path, batch_size=size)[0]["prediction"].to_numpy() for size in (1, 3, 25)]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=1e-4, atol=1e-5)


def test_rows_keep_their_order_and_columns_over_windows_and_files(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    (tmp_path / "new").mkdir()
    texts = [TEXTS[number % 5] for number in range(2500)]
    for part, rows in enumerate((slice(0, 1700), slice(1700, 2500))):
        numbers = list(range(2500))[rows]
        pq.write_table(pa.table({"n": numbers, "review": texts[rows]}), tmp_path / "new" / f"{part}.parquet")
    table, event, listener = predict(tmp_path, str(tmp_path / "new"), batch_size=64)
    assert table["n"].to_pylist() == list(range(2500))
    assert event.rows == 2500
    by_text = {text: table["prediction"][index].as_py() for index, text in enumerate(TEXTS)}
    np.testing.assert_allclose(table["prediction"].to_numpy(), [by_text[text] for text in texts], rtol=1e-4, atol=1e-5)
    assert [progress.done for progress in listener.of(Progress)][-1] == 2500


def test_rows_without_text_have_no_prediction_and_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=[None, TEXTS[0], "  \n"], mood=["bad", "bad", "good"])
    table, event, _ = predict(tmp_path)
    assert [value is None for value in table["prediction"].to_pylist()] == [True, False, True]
    assert [value is None for value in table["probability_good"].to_pylist()] == [True, False, True]
    assert table["review"].to_pylist() == [None, TEXTS[0], "  \n"]
    assert (event.without_text, event.judged) == (2, 1)


def test_rows_that_are_all_without_text_are_written_too(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=pa.array([None, None], pa.string()))
    table, event, _ = predict(tmp_path)
    assert table["prediction"].to_pylist() == [None, None]
    assert (event.rows, event.without_text, event.metrics) == (2, 2, {})


def test_a_long_text_is_read_as_far_as_training_read_and_counted(tmp_path: Path) -> None:
    model = write_run(tmp_path, STARS, seq_len=8)
    write_new(tmp_path, review=["red ball " * 30, "Bo"])
    table, event, _ = predict(tmp_path)
    expected = 3.0 + 1.5 * float(expected_outputs(model, "red ball " * 30, seq_len=8)[0])
    assert table["prediction"][0].as_py() == pytest.approx(expected, rel=1e-3)
    assert event.truncated == 1


def test_another_column_can_be_read_and_some_can_be_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, body=TEXTS, id=range(5), junk=range(5))
    table, *_ = predict(tmp_path, text="body", columns=["id"])
    assert table.column_names == ["id", "prediction"]
    assert predict(tmp_path, text="body", columns=[])[0].column_names == ["prediction"]


def test_json_lines_are_read_like_parquet(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    lines = [{"review": text, "meta": {"id": number}} for number, text in enumerate(TEXTS)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table, *_ = predict(tmp_path, str(tmp_path / "new.jsonl"))
    assert table["meta"].to_pylist() == [{"id": number} for number in range(5)]
    write_new(tmp_path, review=TEXTS)
    assert table["prediction"].equals(predict(tmp_path)[0]["prediction"])


# -- quality --------------------------------------------------------------------------------------------------------


def test_classes_are_judged_where_the_data_have_them(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    said = predict(tmp_path)[0]["prediction"].to_pylist()
    wrong = next(name for name in MOODS.classes if name != said[0])
    write_new(tmp_path, review=TEXTS, mood=[wrong, said[1], said[2], None, said[4]])
    _, event, listener = predict(tmp_path)
    assert (event.judged, event.metrics["accuracy"]) == (4, 0.75)
    assert listener.events[-1] == event
    assert listener.of(Notice) == []


def test_a_label_that_was_not_trained_counts_as_wrong_and_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    said = predict(tmp_path)[0]["prediction"].to_pylist()
    write_new(tmp_path, review=TEXTS, mood=["odd", *said[1:]])
    _, event, listener = predict(tmp_path)
    assert (event.judged, event.metrics["accuracy"]) == (5, 0.8)
    (notice,) = listener.of(Notice)
    assert "column mood: 1 row with a label that the head was not trained on" in notice.message
    assert "'odd'" in notice.message


def test_numbers_are_judged_where_they_are_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS)
    said = predict(tmp_path)[0]["prediction"].to_pylist()
    write_new(tmp_path, review=TEXTS, stars=[str(said[0] + 1), str(said[1]), "many", None, str(said[4])])
    _, event, listener = predict(tmp_path)
    assert event.judged == 3
    assert event.metrics["mae"] == pytest.approx(1 / 3)
    assert "1 row with a target that is no number" in listener.of(Notice)[0].message


@pytest.mark.parametrize(("spec", "column"), [(MOODS, "mood"), (STARS, "stars")], ids=["classes", "numbers"])
def test_a_truth_that_is_missing_is_not_judged(tmp_path: Path, spec: HeadSpec, column: str) -> None:
    write_run(tmp_path, spec)
    write_new(tmp_path, review=TEXTS, **{column: [math.nan, None, math.nan, None, math.nan]})
    _, event, listener = predict(tmp_path)
    assert (event.judged, event.metrics, listener.of(Notice)) == (0, {}, [])


# -- what cannot be -------------------------------------------------------------------------------------------------


def refused(folder: Path, error: type[EntrenarError], message: str, **options: Any) -> EntrenarError:
    """The error, after which no file is there that was not there before."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(error, match=message) as caught:
        predict(folder, **options)
    assert sorted(folder.rglob("*")) == before
    return caught.value


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, reviews=TEXTS)
    error = refused(tmp_path, DataError, "no column 'review'")
    assert "did you mean 'reviews'" in (error.hint or "")
    assert "--text" in (error.hint or "")


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=range(5))
    refused(tmp_path, DataError, "column 'review' holds int64, not text")


def test_a_column_called_prediction_is_not_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS, prediction=TEXTS)
    refused(tmp_path, DataError, "have a column 'prediction' already")
    assert predict(tmp_path, columns=["review"])[0].column_names == WHOLE


def test_a_file_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    (tmp_path / "link.parquet").symlink_to(tmp_path / "new.parquet")
    for name in ("new.parquet", "link.parquet", "run/head.gguf", "base.gguf"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(OutputError, match="would be written over"):
            run_predict(
                tmp_path / "run",
                str(tmp_path / "new.parquet"),
                tmp_path / name,
                settings=PredictionSettings(),
                reporter=Listener(),
            )
        assert (tmp_path / name).read_bytes() == before


def test_predictions_have_the_name_of_what_they_are(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    data, output = str(tmp_path / "new.parquet"), tmp_path / "answers.csv"
    with pytest.raises(OutputError, match="written as parquet"):
        run_predict(tmp_path / "run", data, output, settings=PredictionSettings(), reporter=Listener())
    assert not output.exists()


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    (tmp_path / "run" / "head.gguf").rename(tmp_path / "head.gguf")
    refused(tmp_path, FormatError, r"run: there is no head\.gguf")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    refused(tmp_path, FormatError, "there is no folder of this name")


def test_a_base_that_has_moved_can_be_named(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS)
    expected = predict(tmp_path)[0]
    (tmp_path / "predictions.parquet").unlink()
    (tmp_path / "base.gguf").rename(tmp_path / "moved.gguf")
    assert "--model" in (refused(tmp_path, FormatError, "base model of the run is not there").hint or "")
    assert predict(tmp_path, model=tmp_path / "moved.gguf")[0].equals(expected)


def test_a_base_that_is_gone_is_not_missed_where_the_run_has_the_whole_model(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    write_new(tmp_path, review=TEXTS)
    expected = predict(tmp_path)[0]["prediction"].to_numpy()
    pairs = read_adapter(tmp_path / "run" / "adapter.gguf", "llama")
    weights = lively_weights(base_spec())
    merged = {name: weights[name] + pair.delta() for name, pair in pairs.items()}
    write_base(tmp_path / "run" / "model.gguf", replaced=merged)
    (tmp_path / "base.gguf").unlink()
    np.testing.assert_allclose(predict(tmp_path)[0]["prediction"].to_numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_model_of_its_own_takes_no_other(tmp_path: Path) -> None:
    write_run(tmp_path, STARS, adapter=False)
    write_new(tmp_path, review=TEXTS)
    refused(tmp_path, FormatError, "no adapter", model=tmp_path / "base.gguf")


def test_a_column_that_parquet_cannot_hold_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, STARS)
    (tmp_path / "new.jsonl").write_text(json.dumps({"review": "Bo", "meta": {}}) + "\n")
    error = refused(tmp_path, OutputError, "cannot be stored as parquet.*meta", data=str(tmp_path / "new.jsonl"))
    assert "--columns" in (error.hint or "")


def test_weights_that_are_not_finite_are_said(tmp_path: Path) -> None:
    write_run(tmp_path, STARS, adapter=False)
    write_new(tmp_path, review=TEXTS)
    norm = np.full(32, np.nan, np.float32)
    write_base(tmp_path / "run" / "model.gguf", replaced={"output_norm.weight": norm})
    refused(tmp_path, EntrenarError, "not finite")


def test_equal_inputs_give_equal_files(tmp_path: Path) -> None:
    write_run(tmp_path, MOODS)
    write_new(tmp_path, review=TEXTS)
    first = replace(predict(tmp_path)[1], seconds=0.0)
    before = (tmp_path / "predictions.parquet").read_bytes()
    assert replace(predict(tmp_path)[1], seconds=0.0) == first
    assert (tmp_path / "predictions.parquet").read_bytes() == before
