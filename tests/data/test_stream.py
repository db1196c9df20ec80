"""Streaming: batches from everywhere in the data, the same for the same place, and little of it in memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.config.data import Data
from entrenar_core.data.batch import Batch
from entrenar_core.data.encoders import Encoding, ExampleFormat
from entrenar_core.data.opening import open_sources
from entrenar_core.data.stream import StreamLoader
from entrenar_core.data.stream_reader import OPEN_GROUPS
from entrenar_core.errors import DataError
from tests.data.documents import predictions_of_batches, predictions_of_data_set
from tests.data.test_load import Recorder, load

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer

GROUPS, ROWS = 40, 60


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of many row groups; each row says in which group it lies and which row it is."""
    path = tmp_path_factory.mktemp("stream") / "numbered.parquet"
    texts = [f"{group}:{row}" for group in range(GROUPS) for row in range(ROWS)]
    pq.write_table(pa.table({"other": range(len(texts)), "text": texts}), path, row_group_size=ROWS)
    return path


def stream(
    tokenizer: Tokenizer, *paths: Path | dict[str, Any], reporter: Recorder | None = None, **changes: Any
) -> StreamLoader:
    section = Data.model_validate({"train": [str(one) if isinstance(one, Path) else one for one in paths]})
    settings: dict[str, Any] = {"batch_size": 4, "packing": False, "shuffle": True, "seed": 3, "segment_rows": 256}
    settings |= changes
    fmt = ExampleFormat(settings.pop("seq_len", 64), overlong=settings.pop("overlong", None))
    return StreamLoader(
        open_sources(section, section.train),
        Encoding(tokenizer, fmt),
        pad_id=0,
        reporter=reporter or Recorder(),
        **settings,
    )


def batches(loader: StreamLoader, segments: int) -> list[Batch]:
    return [
        loader.batch(segment, index)
        for segment in range(segments)
        for index in range(loader.batches_per_epoch(segment))
    ]


def texts_of(tokenizer: Tokenizer, found: list[Batch]) -> list[str]:
    rows = []
    for batch in found:
        for tokens, labels in zip(batch.tokens, batch.labels, strict=True):
            rows.append(tokenizer.decode(tokens[: np.count_nonzero(labels >= 0)].tolist()))
    return rows


def test_a_pass_holds_every_row_once(numbered: Path, tokenizer: Tokenizer) -> None:
    loader = stream(tokenizer, numbered)
    found = Counter(texts_of(tokenizer, batches(loader, loader.segments_per_pass)))
    assert found == {f"{group}:{row}": 1 for group in range(GROUPS) for row in range(ROWS)}


def test_two_hundred_steps_see_all_row_groups(numbered: Path, tokenizer: Tokenizer) -> None:
    loader = stream(tokenizer, numbered, segment_rows=1024)
    first = [loader.batch(0, index) for index in range(200)]
    assert {text.split(":")[0] for text in texts_of(tokenizer, first)} == {str(group) for group in range(GROUPS)}


def test_two_passes_come_in_different_orders(numbered: Path, tokenizer: Tokenizer) -> None:
    loader = stream(tokenizer, numbered)
    one, two = (
        texts_of(tokenizer, [loader.batch(first, index) for index in range(5)])
        for first in (0, loader.segments_per_pass)
    )
    assert one != two


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_depends_on_its_place_alone(numbered: Path, tokenizer: Tokenizer, packing: bool) -> None:
    whole = stream(tokenizer, numbered, packing=packing)
    expected = [whole.batch(segment, 1) for segment in range(5)]
    again = stream(tokenizer, numbered, packing=packing)
    for segment in (4, 1, 3):
        found = again.batch(segment, 1)
        assert np.array_equal(found.tokens, expected[segment].tokens)
        assert np.array_equal(found.labels, expected[segment].labels)
        assert found.places is None, "a place in a segment is no place in the data set"


def test_a_stream_asks_the_same_questions_as_data_in_memory(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [f"the fox {index} says hello to the world " * (index % 4) for index in range(300)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=50)
    expected = predictions_of_data_set(load(path, tokenizer, seq_len=16))
    loader = stream(tokenizer, path, seq_len=16, packing=True)
    assert predictions_of_batches(batches(loader, loader.segments_per_pass)) == expected


def test_weights_say_how_often_a_source_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": [f"{name}{row}" for row in range(64)]}), tmp_path / f"{name}.parquet")
    loader = stream(tokenizer, tmp_path / "a.parquet", {"path": str(tmp_path / "b.parquet"), "weight": 0.5})
    found = Counter(text[0] for text in texts_of(tokenizer, batches(loader, loader.segments_per_pass)))
    assert found == {"a": 64, "b": 32}


def test_epochs_are_counted_in_passes(numbered: Path, tokenizer: Tokenizer) -> None:
    loader = stream(tokenizer, numbered)
    last = loader.segments_per_pass - 1
    assert loader.epochs_done(last, loader.batches_per_epoch(last)) == 1.0
    assert 0.0 < loader.epochs_done(0, 1) < 0.05


def test_few_row_groups_are_open_at_a_time(numbered: Path, tokenizer: Tokenizer) -> None:
    loader = stream(tokenizer, numbered)
    batches(loader, 3)
    open_files = sum(
        Path(link).exists() and Path(link).resolve() == numbered for link in Path("/proc/self/fd").iterdir()
    )
    assert open_files <= OPEN_GROUPS
    loader.close()
    open_files = sum(
        Path(link).exists() and Path(link).resolve() == numbered for link in Path("/proc/self/fd").iterdir()
    )
    assert open_files == 0


def test_refused_rows_are_said_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, reporter = tmp_path / "a.parquet", Recorder()
    pq.write_table(pa.table({"text": ["the fox", None] * 400}), path, row_group_size=50)
    batches(stream(tokenizer, path, reporter=reporter), 3)
    assert len(reporter.notices("warning")) == 1
    assert "some rows are refused: null" in reporter.notices("warning")[0]


def test_a_segment_with_nothing_to_learn_is_passed_over(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, reporter = tmp_path / "a.parquet", Recorder()
    pq.write_table(pa.table({"text": ["the fox says"] * 64 + [" "] * 128 + ["a dog"] * 64}), path)
    loader = stream(tokenizer, path, shuffle=False, segment_rows=64, reporter=reporter)
    assert loader.segments_per_pass == 4
    assert texts_of(tokenizer, [loader.batch(1, 0)]) == ["a dog"] * 4
    assert any("the next one is read instead" in message for message in reporter.notices("warning"))


def test_data_without_anything_to_learn_are_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["the quick brown fox"] * 64}), path)
    loader = stream(tokenizer, path, segment_rows=32, seq_len=2, overlong="drop")
    with pytest.raises(DataError, match=r"nothing to learn from: all rows are refused \(32 longer than seq_len\)"):
        loader.batch(0, 0)


def test_segments_hold_several_steps_and_no_more_bytes_than_they_may(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, large = tmp_path / "a.parquet", tmp_path / "large.parquet"
    pq.write_table(pa.table({"text": [f"the fox {row}" for row in range(40_000)]}), path)
    many = stream(tokenizer, path, batch_size=64, grad_accum=16, segment_rows=None)
    assert sum(many.batches_per_epoch(segment) for segment in range(many.segments_per_pass)) >= 40_000 / 64
    assert many.batches_per_epoch(0) >= 16 * 8 - 1
    texts = [f"{row} " + "fox " * 25_000 for row in range(400)]
    pq.write_table(pa.table({"text": texts}), large, compression="none", use_dictionary=False)
    assert stream(tokenizer, large, segment_rows=None).segments_per_pass >= 2


def test_one_large_row_group_is_said_to_mix_poorly(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, reporter = tmp_path / "a.parquet", Recorder()
    pq.write_table(pa.table({"text": [f"the fox {row}" for row in range(2000)]}), path)
    stream(tokenizer, path, reporter=reporter)
    assert "100% of the rows lie in one row group" in reporter.notices("warning")[0]
    quiet = Recorder()
    stream(tokenizer, path, reporter=quiet, shuffle=False)
    assert quiet.notices("warning") == []
