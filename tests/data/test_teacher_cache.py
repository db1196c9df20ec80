"""A teacher's cache on disk: what was written is read in any order, and what is not whole is not read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.teacher_cache import (
    FORMAT,
    MANIFEST,
    CachePlan,
    TeacherCache,
    begin_cache,
    clean_up,
    planned_before,
    shard_path,
)
from entrenar_core.data.teacher_shard import SHARD_OVERHEAD, CacheDtype, TeacherLayout, TopTokens, write_shard
from entrenar_core.errors import FormatError, OutputError

KEY: dict[str, Any] = {"teachers": ["aa", "bb"], "temperature": 2.0, "data": {"digest": "cc"}}
BORDERS = (0, 4, 9, 20)
N_TOKENS = 50


def plan_of(
    *, dtype: CacheDtype = "float32", weighted: bool = False, n_tokens: int = N_TOKENS, **key: Any
) -> CachePlan:
    return CachePlan({**KEY, **key}, TeacherLayout(3, n_tokens, dtype, weighted), BORDERS)


def rows_of(plan: CachePlan, seed: int = 0) -> TopTokens:
    """Random targets for a whole plan, in the types of its layout."""
    rng, n, layout = np.random.default_rng(seed), plan.n_targets, plan.layout
    ids = np.sort([rng.choice(layout.n_tokens, layout.top_k, replace=False) for _ in range(n)], axis=1)
    values = rng.normal(-3, 2, (n, layout.top_k)).astype(layout.dtype)
    weights = rng.random(n, np.float32) if layout.weighted else None
    return TopTokens(ids.astype(layout.id_dtype), values, rng.normal(-1, 1, n).astype(np.float32), weights)


def part_of(rows: TopTokens, part: Any) -> TopTokens:
    return TopTokens(**{name: array[part] for name, array in rows.arrays()})


def written(folder: Path, plan: CachePlan) -> tuple[TeacherCache, TopTokens]:
    """A complete cache and what was written to it."""
    folder.mkdir()
    rows = rows_of(plan)
    begin_cache(folder, plan)
    cache = TeacherCache(folder, plan)
    for shard in cache.missing:
        cache.write(shard, part_of(rows, plan.rows(shard)))
    return TeacherCache(folder, plan), rows


def assert_equal(found: TopTokens, expected: TopTokens) -> None:
    assert [name for name, _ in found.arrays()] == [name for name, _ in expected.arrays()]
    for (name, one), (_, other) in zip(found.arrays(), expected.arrays(), strict=True):
        assert np.array_equal(one, other), name


# -- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_come_back_as_they_were_written(tmp_path: Path, dtype: CacheDtype, weighted: bool) -> None:
    plan = plan_of(dtype=dtype, weighted=weighted)
    cache, rows = written(tmp_path / "cache", plan)
    found = cache.take(np.arange(20))
    assert_equal(found, rows)
    assert (found.ids.dtype, found.values.dtype, found.log_tail.dtype) == (np.int32, np.float32, np.float32)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[TeacherCache, TopTokens]:
    return written(tmp_path_factory.mktemp("complete") / "cache", plan_of(weighted=True))


@pytest.mark.property
@given(st.lists(st.integers(0, BORDERS[-1] - 1), max_size=40))
def test_any_order_gives_the_same_targets(complete: tuple[TeacherCache, TopTokens], order: list[int]) -> None:
    cache, rows = complete
    assert_equal(cache.take(np.array(order, dtype=np.int64)), part_of(rows, np.array(order, dtype=np.int64)))


def test_there_are_no_targets_beyond_the_last(complete: tuple[TeacherCache, TopTokens]) -> None:
    for row in (-1, 20):
        with pytest.raises(IndexError, match="of 20"):
            complete[0].take(np.array([3, row]))


def test_a_shard_that_is_missing_cannot_be_read(tmp_path: Path) -> None:
    cache, _ = written(tmp_path / "cache", plan_of())
    shard_path(cache.folder, 1).unlink()
    cache = TeacherCache(cache.folder, cache.plan)
    assert cache.missing == [1]
    assert len(cache.take(np.array([0, 19]))) == 2
    with pytest.raises(IndexError, match="shard 1 is missing"):
        cache.take(np.array([0, 4]))


def test_files_are_mapped_and_not_held_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    cache, _ = written(tmp_path / "cache", plan_of())
    assert len(os.listdir("/proc/self/fd")) == before
    maps = Path("/proc/self/maps").read_text()
    assert all(str(shard_path(cache.folder, shard)) in maps for shard in range(3))


@pytest.mark.parametrize(("n_tokens", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_ids_are_as_small_as_the_vocabulary_allows(tmp_path: Path, n_tokens: int, dtype: type) -> None:
    plan = plan_of(n_tokens=n_tokens)
    cache, rows = written(tmp_path / "cache", plan)
    assert rows.ids.dtype == dtype
    assert_equal(cache.take(np.arange(20)), rows)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_tokens", [50, 100_000])
def test_the_size_is_known_before(tmp_path: Path, dtype: CacheDtype, weighted: bool, n_tokens: int) -> None:
    plan = plan_of(dtype=dtype, weighted=weighted, n_tokens=n_tokens)
    cache, _ = written(tmp_path / "cache", plan)
    for shard in range(3):
        size, columns = shard_path(cache.folder, shard).stat().st_size, plan.layout.row_bytes * plan.shard_rows(shard)
        assert columns < size <= columns + SHARD_OVERHEAD
    assert plan.n_bytes() == plan.n_bytes([0, 1]) + plan.n_bytes([2])


def test_equal_targets_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, plan_of())
    for name in (MANIFEST, "shard-00000.arrow", "shard-00002.arrow"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# -- damage ---------------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _swap(path: Path) -> None:
    path.write_bytes(shard_path(path.parent, 0).read_bytes())


def _other_length(path: Path) -> None:
    plan = plan_of()
    write_shard(path, part_of(rows_of(plan), slice(4, 8)), plan.stamp(1))


def _other_layout(path: Path) -> None:
    plan = plan_of(dtype="float16")
    write_shard(path, part_of(rows_of(plan), slice(4, 9)), plan.stamp(1))


def _two_batches(path: Path) -> None:
    with pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        content = pa.BufferOutputStream()
        with pa.ipc.new_file(content, batch.schema) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch)
    path.write_bytes(content.getvalue().to_pybytes())


@pytest.mark.parametrize(
    "damage",
    [_truncate, _halve, _empty, _swap, _other_length, _other_layout, _two_batches],
    ids=lambda function: function.__name__[1:],
)
def test_a_damaged_shard_is_missing_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache, rows = written(tmp_path / "cache", plan_of())
    whole = shard_path(cache.folder, 1).read_bytes()
    damage(shard_path(cache.folder, 1))
    again = TeacherCache(cache.folder, cache.plan)
    assert again.missing == [1]
    assert len(again.damaged) == 1
    assert str(shard_path(cache.folder, 1)) in again.damaged[0]
    again.write(1, part_of(rows, slice(4, 9)))
    assert again.missing == []
    assert shard_path(cache.folder, 1).read_bytes() == whole


def test_columns_shorter_than_they_say_are_not_read(tmp_path: Path) -> None:
    cache, _ = written(tmp_path / "cache", plan_of())
    path = shard_path(cache.folder, 2)
    content = bytearray(path.read_bytes())
    lengths = [at for at in range(0, len(content) - 8, 4) if content[at : at + 8] == (11 * 3 * 4).to_bytes(8, "little")]
    assert lengths, "the length of the buffer of values is in the file"
    for at in lengths:
        content[at : at + 8] = (4).to_bytes(8, "little")
    path.write_bytes(content)
    assert TeacherCache(cache.folder, cache.plan).missing == [2]


def _ids_of(*rows: list[int]) -> Callable[[TopTokens], None]:
    def damage(stored: TopTokens) -> None:
        stored.ids[: len(rows)] = rows

    return damage


def _set(name: str, value: float) -> Callable[[TopTokens], None]:
    def damage(stored: TopTokens) -> None:
        getattr(stored, name)[2] = value

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _ids_of([1, 2, 50]),
        _ids_of([1, 1, 2]),
        _ids_of([3, 2, 4]),
        _set("values", np.nan),
        _set("values", -np.inf),
        _set("log_tail", np.nan),
        _set("log_tail", np.inf),
        _set("weights", -1.0),
        _set("weights", np.nan),
    ],
)
def test_what_no_teacher_says_is_refused_with_the_name_of_its_file(
    tmp_path: Path, damage: Callable[[TopTokens], None]
) -> None:
    cache, rows = written(tmp_path / "cache", plan_of(weighted=True))
    bad = part_of(rows, slice(4, 9))
    damage(bad)
    cache.write(1, bad)
    assert len(cache.take(np.array([0, 8, 19]))) == 3
    with pytest.raises(FormatError, match="that no teacher gives") as caught:
        cache.take(np.arange(20))
    assert caught.value.where == str(shard_path(cache.folder, 1))


def test_no_tail_is_sound(tmp_path: Path) -> None:
    cache, rows = written(tmp_path / "cache", plan_of())
    bare = part_of(rows, slice(0, 4))
    bare.log_tail[:] = -np.inf
    cache.write(0, bare)
    assert np.isneginf(cache.take(np.arange(4)).log_tail).all()


# -- manifest -------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_absent_or_empty_has_no_plan(tmp_path: Path) -> None:
    assert planned_before(tmp_path / "absent", plan_of()) is None
    (tmp_path / "empty").mkdir()
    assert planned_before(tmp_path / "empty", plan_of()) is None


def test_the_borders_of_a_cache_are_those_it_was_begun_with(tmp_path: Path) -> None:
    begin_cache(tmp_path, plan_of())
    now = CachePlan(KEY, TeacherLayout(3, N_TOKENS), (0, 10, 20))
    found = planned_before(tmp_path, now)
    assert found == plan_of()


def test_another_key_is_refused_with_what_differs(tmp_path: Path) -> None:
    begin_cache(tmp_path, plan_of(old=[1]))
    other = plan_of(temperature=1.5, teachers=["aa", "dd"], data={"digest": "x" * 80})
    with pytest.raises(OutputError) as caught:
        planned_before(tmp_path, other)
    assert caught.value.where == str(tmp_path)
    assert caught.value.message == (
        f"the teacher's cache was made from something else: data.digest is cc there and {'x' * 59}… here;"
        " old is [1] there and absent here; teachers[1] is bb there and dd here;"
        " temperature is 2.0 there and 1.5 here"
    )


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"format": 1, "key": {}}', b"[" * 100_000])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(FormatError, match="damaged") as caught:
        planned_before(tmp_path, plan_of())
    assert caught.value.where == str(tmp_path / MANIFEST)


@pytest.mark.parametrize("borders", [[], [0], [1, 20], [0, 9, 9, 20], [0, 10.0, 20], [0, True, 20], "020", [0, 4, 19]])
def test_borders_that_make_no_sense_are_refused(tmp_path: Path, borders: Any) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"format": FORMAT, "key": KEY, "borders": borders}))
    with pytest.raises(FormatError, match="damaged"):
        planned_before(tmp_path, plan_of())


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"format": FORMAT + 1, "key": KEY, "borders": BORDERS}))
    with pytest.raises(FormatError, match=f"format {FORMAT + 1}; this version reads format {FORMAT}"):
        planned_before(tmp_path, plan_of())


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds thesis\.tex and no manifest\.json"):
        planned_before(tmp_path, plan_of())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OutputError, match="no folder"):
        planned_before(tmp_path / "cache", plan_of())


def test_what_killed_builds_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = [tmp_path / f".{name}.0123abcd.partial" for name in (MANIFEST, "shard-00001.arrow")]
    others = [tmp_path / name for name in (".shard-00003.arrow.0123abcd.partial", "shard-00001.arrow", ".a.partial")]
    for path in (*left, *others):
        path.touch()
    clean_up(tmp_path, plan_of())
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("top_k", [0, 51])
def test_top_k_is_within_the_vocabulary(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        TeacherLayout(top_k, N_TOKENS)
