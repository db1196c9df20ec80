"""The importance of a model's matrices: from texts, prompts, chats and labelled texts, and from a file."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.config.data import Data
from entrenar_core.config.quantize import Calibration
from entrenar_core.errors import ConfigError, DataError, FormatError, ModelError
from entrenar_core.events import Notice, Progress, Saved
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant.imatrix import ImportanceEntry, ImportanceMatrix, read_imatrix, write_imatrix
from entrenar_core.stages.calibrate import (
    ModelText,
    calibration_rows,
    importance_for,
    measure,
    run_calibrate,
)
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from tests.stages.tiny_base import CONTEXT, stories, write_base
from tests.train.tiny_model import Listener


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts_of(folder: Path, count: int = 20) -> str:
    return write_rows(folder / "texts.jsonl", [{"text": " ".join(pair)} for pair in stories()[:count]])


def calibration(**keys: Any) -> Calibration:
    return Calibration.model_validate({"rows": 4, "seq_len": 32, **keys})


def rows_of(folder: Path, run: Data | None = None, **keys: Any) -> list[list[int]]:
    """The tokens of all rows, without padding."""
    with GGUFFile.open(folder / "base.gguf") as file:
        tokenizer = tokenizer_from_metadata(file.metadata, "base.gguf")
        text = ModelText("base.gguf", tokenizer, dict(file.metadata), CONTEXT)
        found = calibration_rows(text, calibration(**keys), run, Listener())
    return [
        row[: int((labels >= 0).sum())].tolist()
        for batch in found.batches
        for row, labels in zip(batch.tokens, batch.labels, strict=True)
    ]


def tokens_in(folder: Path, text: str) -> list[int]:
    with GGUFFile.open(folder / "base.gguf") as file:
        return tokenizer_from_metadata(file.metadata, "base.gguf").encode_batch([text])[0]


@pytest.mark.parametrize("method", ["imatrix", "minmax", "moving_average", "percentile"])
def test_every_matrix_of_a_block_has_an_importance(folder: Path, method: str) -> None:
    listener = Listener()
    found = importance_for(
        folder / "base.gguf", calibration(data=texts_of(folder), method=method), threads=1, reporter=listener
    )
    assert len(found) == 2 * 7
    assert found["blk.1.ffn_down.weight"].shape == (64,)
    assert all(one.dtype == np.float32 and (one > 0).all() for one in found.values())
    assert [event for event in listener.events if isinstance(event, Progress)][-1] == Progress("calibrate", 4, 4)


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "Q4_0"])
def test_a_model_of_any_type_runs_where_it_lies(folder: Path, type_name: str) -> None:
    write_base(folder / "few.gguf", type_name=type_name)
    section = calibration(data=texts_of(folder))
    exact, found = (
        importance_for(folder / name, section, threads=1, reporter=Listener()) for name in ("base.gguf", "few.gguf")
    )
    tolerance = {"F16": 0.01, "Q8_0": 0.1, "Q4_0": 1.5}[type_name]
    for name, importance in exact.items():
        assert np.allclose(found[name].mean(), importance.mean(), rtol=tolerance), name


def test_prompts_count_like_answers(folder: Path) -> None:
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in stories()[:2]]
    (row,) = rows_of(folder, Data.model_validate({"train": write_rows(folder / "p.jsonl", rows)}), seq_len=64)
    expected = [
        token
        for prompt, completion in stories()[:2]
        for token in [*tokens_in(folder, prompt + "\n"), *tokens_in(folder, completion)]
    ]
    assert row == expected


def test_labelled_texts_count_without_their_labels(folder: Path) -> None:
    path = write_rows(folder / "l.jsonl", [{"text": stories()[0][0], "label": "a"}, {"text": "red ball", "label": "b"}])
    data = Data.model_validate({"train": path, "task": "classification"})
    (row,) = rows_of(folder, data)
    assert row == [*tokens_in(folder, stories()[0][0]), *tokens_in(folder, "red ball")]


def test_chats_go_through_the_template_of_the_model(folder: Path) -> None:
    turns = [{"role": "user", "content": "red ball"}, {"role": "assistant", "content": "blue hat"}]
    path = write_rows(folder / "c.jsonl", [{"messages": turns}] * 2)
    (row,) = rows_of(folder, Data.model_validate({"train": path, "packing": False}))
    once = tokens_in(folder, "red ball\nblue hat\n")
    assert row[: len(once)] == once


def test_long_texts_are_cut_into_rows(folder: Path) -> None:
    text = " ".join(" ".join(pair) for pair in stories() * 3)
    rows = rows_of(folder, data=write_rows(folder / "t.jsonl", [{"text": text}] * 3))
    assert [len(row) for row in rows] == [32] * 4
    assert list(chain(*rows)) == tokens_in(folder, text)[:128]


def test_no_more_rows_than_asked_for(folder: Path) -> None:
    text = " ".join(" ".join(pair) for pair in stories() * 3)
    data = write_rows(folder / "t.jsonl", [{"text": text}])
    assert len(rows_of(folder, data=data, rows=1)) == 1


def test_each_source_gives_its_share(folder: Path) -> None:
    long, short = " ".join(" ".join(pair) for pair in stories() * 3), "red ball"
    paths = [
        write_rows(folder / "short.jsonl", [{"text": short}]),
        write_rows(folder / "a.jsonl", [{"text": "old key " + long}]),
        write_rows(folder / "b.jsonl", [{"text": "green lamp " + long}]),
    ]
    rows = rows_of(folder, Data.model_validate({"train": paths}))
    flat = list(chain(*rows))
    assert len(rows) == 4
    for text, least in ((short, 1), ("old key " + long, 58), ("green lamp " + long, 58)):
        tokens = tokens_in(folder, text)[:least]
        assert any(flat[place : place + len(tokens[:30])] == tokens[:30] for place in range(len(flat))), text


def test_data_of_the_run_are_the_default(folder: Path) -> None:
    data = Data.model_validate({"train": texts_of(folder)})
    own = importance_for(folder / "base.gguf", calibration(data=data.train[0].path), threads=1, reporter=Listener())
    runs = importance_for(folder / "base.gguf", calibration(), threads=1, reporter=Listener(), data=data)
    assert all(np.array_equal(own[name], runs[name]) for name in own)


def test_other_data_are_read_like_those_of_the_run(folder: Path) -> None:
    """Named columns belong to the run's own data."""
    run = Data.model_validate(
        {"train": write_rows(folder / "p.jsonl", [{"q": "red", "a": "hat"}]), "prompt": "q", "completion": "a"}
    )
    rows = rows_of(folder, run, data=texts_of(folder, 1))
    assert rows == [tokens_in(folder, " ".join(stories()[0]))]


def test_columns_of_calibration_data_can_be_named(folder: Path) -> None:
    path = write_rows(folder / "b.jsonl", [{"body": "red ball", "other": "blue hat"}])
    for column, text in (("body", "red ball"), ("other", "blue hat")):
        assert rows_of(folder, data=path, columns={"text": column}) == [tokens_in(folder, text)]
        run = Data.model_validate({"train": texts_of(folder)})
        assert rows_of(folder, run, data=path, columns={"text": column}) == [tokens_in(folder, text)]


def test_chats_can_have_a_template_of_their_own(folder: Path) -> None:
    turns = [{"role": "user", "content": "red ball"}, {"role": "assistant", "content": "blue hat"}]
    path = write_rows(folder / "c.jsonl", [{"messages": turns}])
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (row,) = rows_of(folder, data=path, chat_template=template)
    assert row[:4] == tokens_in(folder, "red ball blue hat ")[:4] != tokens_in(folder, "red ball\nblue hat\n")[:4]


def test_what_is_wrong_with_calibration_data_names_keys_of_calibration(folder: Path) -> None:
    path = texts_of(folder)
    with pytest.raises(DataError) as caught:
        rows_of(folder, data=path, columns={"text": "body"})
    assert "quantize.calibration.columns.text: there is no column 'body'" in caught.value.message
    with pytest.raises(DataError) as caught:
        rows_of(folder, Data.model_validate({"train": path, "columns": {"text": "body"}}))
    assert "data.text: there is no column 'body'" in caught.value.message


def test_without_data_or_a_file_there_is_nothing_to_do(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to calibrate on"):
        importance_for(folder / "base.gguf", calibration(), reporter=Listener())


def test_rows_without_tokens_are_an_error(folder: Path) -> None:
    rows = [{"prompt": "red ball", "completion": None}, {"prompt": " ", "completion": "hat"}]
    data = Data.model_validate({"train": write_rows(folder / "e.jsonl", rows)})
    with pytest.raises(DataError, match=r"no tokens to calibrate on: 2 rows were refused \(1 null, 1 empty\)"):
        importance_for(folder / "base.gguf", calibration(), reporter=Listener(), data=data)


def test_rows_that_are_refused_are_said(folder: Path) -> None:
    path = write_rows(folder / "e.jsonl", [{"text": "red ball"}, {"text": " "}])
    listener = Listener()
    importance_for(folder / "base.gguf", calibration(data=path), threads=1, reporter=listener)
    (notice,) = [event for event in listener.events if isinstance(event, Notice)]
    assert notice == Notice("warning", f"{path}: 1 of 2 rows refused: 1 empty")


def test_a_row_is_never_longer_than_the_context(folder: Path) -> None:
    text = " ".join(" ".join(pair) for pair in stories() * 9)
    path = write_rows(folder / "t.jsonl", [{"text": text}])
    found = importance_for(folder / "base.gguf", Calibration(data=path, rows=1), threads=1, reporter=Listener())
    assert found
    with GGUFFile.open(folder / "base.gguf") as file:
        seen = measure(file, Calibration(data=path, rows=1), threads=1, reporter=Listener())
        assert {one.inputs for one in seen.statistics} == {CONTEXT}
    with pytest.raises(ConfigError, match=f"seq_len is 512, but .* was made for {CONTEXT} tokens"):
        importance_for(folder / "base.gguf", Calibration(data=path, seq_len=512), reporter=Listener())


def test_an_unknown_architecture_can_have_a_file_instead(folder: Path) -> None:
    write_base(folder / "new.gguf", extra=[("general.architecture", MetadataValue.string("mamba9"))])
    with pytest.raises(ModelError, match="'mamba9' is not supported") as error:
        importance_for(folder / "new.gguf", calibration(data=texts_of(folder)), reporter=Listener())
    assert error.value.hint is not None
    assert "supported architectures: llama" in error.value.hint
    assert "--imatrix FILE" in error.value.hint
    file = matrix_file(folder, {"blk.0.attn_q.weight": 32})
    assert set(importance_for(folder / "new.gguf", Calibration(imatrix=file), reporter=Listener())) == {
        "blk.0.attn_q.weight"
    }


def matrix_file(folder: Path, columns: dict[str, int]) -> str:
    entries = {
        name: ImportanceEntry(np.ones((1, count), np.float32), np.array([2], np.float32))
        for name, count in columns.items()
    }
    write_imatrix(folder / "m.gguf", ImportanceMatrix(entries, ("x",), 1, 32))
    return str(folder / "m.gguf")


def test_matrices_that_a_file_lacks_are_said(folder: Path) -> None:
    listener = Listener()
    path = matrix_file(folder, {"blk.0.attn_q.weight": 32, "blk.0.ffn_down.weight": 64})
    found = importance_for(folder / "base.gguf", Calibration(imatrix=path), reporter=listener)
    assert np.array_equal(found["blk.0.ffn_down.weight"], np.full(64, 0.5, np.float32))
    (notice,) = listener.events
    assert isinstance(notice, Notice)
    assert "nothing on 12 of 14 matrices (blk.0.attn_k.weight ...)" in notice.message


def test_a_file_of_another_model_is_refused(folder: Path) -> None:
    path = matrix_file(folder, {"blk.9.attn_q.weight": 32})
    with pytest.raises(FormatError, match=r"tensor blk.9.attn_q.weight: the model has no such matrix"):
        importance_for(folder / "base.gguf", Calibration(imatrix=path), reporter=Listener())


@pytest.mark.parametrize("type_name", ["F16", "Q8_0"])
def test_a_table_of_embeddings_stays_in_the_type_of_the_file(
    folder: Path, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 it would be the largest thing in memory; the values of its rows are the same."""
    with GGUFFile.open(folder / "base.gguf") as file:
        shapes = {name: (tuple(info.shape), info.type_name) for name, info in file.tensors.items()}
        typed = {name: type_name if len(shape) == 2 else kind for name, (shape, kind) in shapes.items()}
        plans = [encode_tensor(name, file.load(name), kind) for name, kind in typed.items()]
        write_gguf(folder / "typed.gguf", file.metadata_entries(), plans)
    with GGUFFile.open(folder / "typed.gguf") as file:
        plans = [encode_tensor(name, file.load(name), "F32") for name in file.tensors]
        write_gguf(folder / "dense.gguf", file.metadata_entries(), plans)
    section = calibration(data=texts_of(folder))
    dense = importance_for(folder / "dense.gguf", section, threads=1, reporter=Listener())
    loaded: list[str] = []
    load = GGUFFile.load
    monkeypatch.setattr(GGUFFile, "load", lambda file, name, **keys: (loaded.append(name), load(file, name, **keys))[1])
    found = importance_for(folder / "typed.gguf", section, threads=1, reporter=Listener())
    assert not [name for name in loaded if len(shapes[name][0]) > 1]
    assert all(np.allclose(found[name], dense[name], rtol=1e-5) for name in dense)


def test_a_damaged_model_is_named_with_the_matrix_whose_inputs_show_it(folder: Path) -> None:
    with GGUFFile.open(folder / "base.gguf") as file:
        values = file.load("blk.0.attn_q.weight")
    values[0, 0] = np.nan
    damaged = write_base(folder / "damaged.gguf", replaced={"blk.0.attn_q.weight": values})
    with pytest.raises(ModelError, match="its inputs are not finite") as error, np.errstate(all="ignore"):
        importance_for(damaged, calibration(data=texts_of(folder)), threads=1, reporter=Listener())
    assert error.value.where == f"{damaged}: tensor blk.0.attn_output.weight"


def test_a_measured_file_says_the_same_as_measuring(folder: Path) -> None:
    section, listener = calibration(data=texts_of(folder)), Listener()
    run_calibrate(folder / "base.gguf", folder / "im.gguf", section, with_output=True, threads=1, reporter=listener)
    saved = listener.events[-1]
    assert saved == Saved("imatrix", folder / "im.gguf", (folder / "im.gguf").stat().st_size)
    matrix = read_imatrix(folder / "im.gguf")
    assert matrix.datasets == (section.data,)
    assert (matrix.chunk_size, matrix.chunk_count) == (32, 4)
    measured = importance_for(folder / "base.gguf", section, threads=1, reporter=Listener())
    read = importance_for(folder / "base.gguf", Calibration(imatrix=str(folder / "im.gguf")), reporter=Listener())
    assert set(read) == {*measured, "output.weight"}
    assert all(np.array_equal(read[name], measured[name]) for name in measured)
