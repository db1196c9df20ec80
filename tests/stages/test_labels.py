"""Labels are looked at in training and validation data before a token is made, and a bad one is named with its row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.errors import DataError
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import OpenedData, open_data
from tests.stages.tiny_base import config
from tests.train.tiny_model import Listener

TEXTS = [f"This is what somebody wrote about thing number {number}." for number in range(24)]


def write(path: Path, texts: Sequence[str | None], **column: Sequence[Any]) -> str:
    pq.write_table(pa.table({"review": list(texts), **{name: list(values) for name, values in column.items()}}), path)
    return str(path)


def opened(folder: Path, **data: Any) -> OpenedData:
    """What `entrenar validate` opens."""
    wanted = config(folder, data=data)
    base = open_base(wanted, Listener())
    try:
        return open_data(wanted, base, Listener())
    finally:
        base.close()


def refused(folder: Path, message: str, **data: Any) -> DataError:
    with pytest.raises(DataError, match=message) as caught:
        opened(folder, **data)
    return caught.value


def test_a_class_that_only_the_validation_data_have_is_named_with_its_row(folder: Path) -> None:
    train = write(folder / "a.parquet", TEXTS, label=["good", "bad"] * 12)
    val = write(folder / "b.parquet", TEXTS[:3], label=["good", "bad", "god"])
    error = refused(
        folder, "the label 'god' is not among the classes of the training data: bad, good", train=train, val=val
    )
    assert error.where == f"{val}, row 3, column label"
    assert error.hint == "did you mean 'good'? fix the spelling, or add the class to the training data"


def test_a_validation_label_of_a_row_that_is_refused_does_not_matter(folder: Path) -> None:
    train = write(folder / "a.parquet", TEXTS, label=["good", "bad"] * 12)
    val = write(folder / "b.parquet", [*TEXTS[:2], None], label=["good", "bad", "god"])
    assert len(opened(folder, train=train, val=val).val) == 1


@pytest.mark.parametrize("spoilt", ["train", "val"])
def test_a_target_that_is_not_finite_is_named_with_its_file_and_row(folder: Path, spoilt: str) -> None:
    stars = [number / 4 for number in range(24)]
    first = write(folder / "a.parquet", TEXTS, stars=stars)
    second = write(folder / "b.parquet", TEXTS, stars=[*stars[:-1], math.inf])
    data = {"train": [first, second]} if spoilt == "train" else {"train": first, "val": second}
    error = refused(folder, "the target inf is not a finite number", **data)
    assert error.where == f"{second}, row 24, column stars"


def test_classes_are_those_of_all_sources_on_rows_with_a_text(folder: Path) -> None:
    first = write(folder / "a.parquet", TEXTS, label=["good", "bad"] * 12)
    second = write(
        folder / "b.parquet", [None, *TEXTS[1:]], label=["ghost", *["so-so", "bad", "good"] * 7, "bad", "bad"]
    )
    labels = opened(folder, train=[first, second]).encoding.labels
    assert labels is not None
    assert labels.classes == ("bad", "good", "so-so")


def test_true_and_false_are_the_same_classes_as_words(folder: Path) -> None:
    train = write(folder / "a.parquet", TEXTS, label=[True, False] * 12)
    val = write(folder / "b.parquet", TEXTS, label=["True", "False"] * 12)
    labels = opened(folder, train=train, val=val).encoding.labels
    assert labels is not None
    assert labels.classes == ("false", "true")


def test_what_is_wrong_with_all_labels_names_every_source(folder: Path) -> None:
    paths = [write(folder / name, TEXTS, stars=[2.5] * 24) for name in ("a.parquet", "b.parquet")]
    error = refused(folder, "every target is 2.5", train=paths, task="regression", columns={"target": "stars"})
    assert error.where == f"{paths[0]}: column stars, {paths[1]}: column stars"
