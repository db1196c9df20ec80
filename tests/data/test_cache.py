"""The token cache: the same examples from the disk, found by all that they were made from, never half of one."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.data import cache as cache_module
from entrenar_core.data import load as load_module
from entrenar_core.data.cache import MANIFEST, TokenCache
from entrenar_core.data.examples import Examples
from entrenar_core.errors import OutputError
from tests.data.test_load import Recorder, load

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def everything_is_worth_caching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "WORTH_CACHING", 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "a.parquet", ["the fox", None, "says hello to the world"])


def write(path: Path, texts: list[str | None]) -> Path:
    pq.write_table(pa.table({"text": texts}), path)
    return path


def entries(cache: TokenCache) -> list[Path]:
    return sorted(cache.folder.iterdir()) if cache.folder.exists() else []


def assert_equal(one: Examples, other: Examples) -> None:
    assert one.digest() == other.digest()
    assert one.stats == other.stats


def test_the_second_time_the_tokens_come_from_the_disk(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache, first, second = TokenCache(tmp_path / "cache"), Recorder(), Recorder()
    plain = load(data, tokenizer)
    assert_equal(load(data, tokenizer, cache=cache, reporter=first), plain)
    found = load(data, tokenizer, cache=cache, reporter=second)
    assert_equal(found, plain)
    assert isinstance(found.tokens, np.memmap)
    assert not any("found in the cache" in message for message in first.notices("info"))
    assert any("found in the cache" in message for message in second.notices("info"))
    assert second.notices("warning") == first.notices("warning") == [f"{data}: 1 of 3 rows refused: 1 null"]


def test_a_copy_of_the_data_elsewhere_is_the_same_data(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    load(data, tokenizer, cache=cache)
    copy = tmp_path / "b.parquet"
    copy.write_bytes(data.read_bytes())
    load(copy, tokenizer, cache=cache)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("change", [{"seq_len": 5}, {"overlong": "drop"}, {"separator": "x"}])
def test_other_settings_are_another_entry(
    data: Path, tokenizer: Tokenizer, tmp_path: Path, change: dict[str, Any]
) -> None:
    cache = TokenCache(tmp_path / "cache")
    load(data, tokenizer, cache=cache)
    load(data, tokenizer, cache=cache, **change)
    assert len(entries(cache)) == 2


def test_other_data_of_the_same_name_are_another_entry(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    load(data, tokenizer, cache=cache)
    write(data, ["the dog", None, "says hello to the world"])
    assert "the dog" in tokenizer.decode(load(data, tokenizer, cache=cache).tokens.tolist())
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("file", ["tokens.bin", "supervised.bin", "offsets.bin", MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_entry_is_made_anew(data: Path, tokenizer: Tokenizer, tmp_path: Path, file: str, damage: str) -> None:
    cache = TokenCache(tmp_path / "cache")
    expected = load(data, tokenizer, cache=cache)
    digest = expected.digest()
    (entry,) = entries(cache)
    content = bytearray((entry / file).read_bytes())
    (entry / file).unlink()
    if damage != "gone":
        content[len(content) // 2] ^= 1
        (entry / file).write_bytes(content[:-3] if damage == "cut" else content)
    assert load(data, tokenizer, cache=cache).digest() == digest
    reporter = Recorder()
    load(data, tokenizer, cache=cache, reporter=reporter)
    assert any("found in the cache" in message for message in reporter.notices("info"))


def test_nothing_is_left_when_tokenizing_fails(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Stops(Recorder):
        def emit(self, event: object) -> None:
            raise KeyboardInterrupt

    cache = TokenCache(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        load(data, tokenizer, cache=cache, reporter=Stops())
    assert entries(cache) == []


def test_the_entries_used_longest_ago_go_first(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TokenCache(tmp_path / "cache")
    names = []
    for index in range(3):
        load(write(tmp_path / f"{index}.parquet", [f"the fox {index} says hello"]), tokenizer, cache=cache)
        names.append(next(path for path in entries(cache) if path not in names))
        age(names[-1], index)
    monkeypatch.setattr(cache_module, "LARGEST_CACHE", size(names[1]) + 2 * size(names[2]))
    load(write(tmp_path / "3.parquet", ["the fox 9 says hello"]), tokenizer, cache=cache)
    kept = entries(cache)
    assert names[2] in kept
    assert names[0] not in kept
    assert len(kept) < 4


def age(entry: Path, seconds: int) -> None:
    os.utime(entry / MANIFEST, (seconds, seconds))


def size(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(
    data: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="token cache cannot be written") as error:
        load(data, tokenizer, cache=TokenCache(tmp_path / "cache"))
    assert "data.cache: false" in str(error.value.hint)


def test_a_manifest_says_what_the_entry_holds(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    examples = load(data, tokenizer, cache=cache)
    manifest = json.loads((entries(cache)[0] / MANIFEST).read_text())
    assert manifest["stats"]["examples"] == len(examples) == 2
    assert manifest["per_source"] == [2]


def test_two_runs_that_tokenize_the_same_data_at_once_both_succeed(
    data: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cache = TokenCache(tmp_path / "cache")
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: load(data, tokenizer, cache=cache).digest(), range(24)))
    assert set(found) == {load(data, tokenizer).digest()}
    assert [path.name.startswith(".tmp") for path in entries(cache)] == [False]


def test_what_a_killed_run_has_left_goes_after_a_day(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache")
    old, new = cache.folder / ".tmp-old", cache.folder / ".tmp-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    load(data, tokenizer, cache=cache)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_default_folder_that_cannot_be_written_is_a_warning(data: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    reporter = Recorder()
    cache = TokenCache(tmp_path / "cache", is_asked_for=False)
    assert len(load(data, tokenizer, cache=cache, reporter=reporter)) == 2
    assert any("tokens are not cached" in message for message in reporter.notices("warning"))
