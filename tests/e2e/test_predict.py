"""``entrenar predict`` as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.command import call, entrenar, tree
from tests.stages.head_folder import MOODS, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path, MOODS)
    table = pa.table({"id": [1, 2, 3], "review": ["Ada saw a red ball.", None, "Bo"], "mood": ["bad", "good", "so-so"]})
    pq.write_table(table, tmp_path / "new.parquet")
    return tmp_path


def test_predictions_are_written_and_summed_up(run: Path) -> None:
    done = entrenar("predict", "new.parquet", "--run", "run", "--columns", "id", cwd=run)
    assert (done.code, done.out) == (0, "")
    table = pq.read_table(run / "predictions.parquet")
    assert table.column_names == ["id", "prediction", "probability", *(f"probability_{name}" for name in MOODS.classes)]
    assert table["id"].to_pylist() == [1, 2, 3]
    assert [value is None for value in table["prediction"].to_pylist()] == [False, True, False]
    assert "predictions: predictions.parquet (3 rows in" in done.err
    assert "without text: 1 row: no prediction" in done.err
    assert "on 2 rows" in done.err


def test_json_ends_with_the_metrics(run: Path) -> None:
    done = entrenar("predict", "new.parquet", "--run", "run", "-o", "said.parquet", "--json", cwd=run)
    last = done.events()[-1]
    assert (last["event"], last["path"], last["rows"], last["judged"]) == ("predicted", "said.parquet", 3, 2)
    assert set(last["metrics"]) == {"accuracy", "macro_f1"}
    assert done.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new.parquet", "--run", "nowhere"], "nowhere: there is no folder of this name"),
        (["absent.parquet", "--run", "run"], "absent.parquet"),
        (["new.parquet", "--run", "run", "--text", "body"], "there is no column 'body'"),
        (["new.parquet", "--run", "run", "--columns", "idd"], "there is no column 'idd'"),
        (["new.parquet", "--run", "run", "-o", "new.parquet"], "would be written over"),
        (["new.parquet", "--run", "run", "-o", "no/folder.parquet"], "its folder does not exist"),
        (["new.parquet", "--run", "run", "--batch-size", "0"], "--batch-size"),
        (["new.parquet"], "--run"),
    ],
)
def test_wrong_input_is_explained_and_nothing_is_written(run: Path, arguments: list[str], message: str) -> None:
    before = tree(run)
    done = call("predict", *arguments, cwd=run)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert tree(run) == before
