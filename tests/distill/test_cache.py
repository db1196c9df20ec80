"""A cached teacher says what the teacher said, whatever happened while it was written down."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops.distillation import DenseChunk, TopKChunk
from entrenar_core.data.loader import Loader
from entrenar_core.data.teacher_cache import shard_path
from entrenar_core.distill.cache import UniformTeacher, bytes_to_write, cache_bytes, open_or_build
from entrenar_core.distill.targets import Targets
from tests.distill.caches import (
    BACKEND,
    EXAMPLES,
    INDICES,
    Heard,
    build,
    built,
    contents,
    loaded,
    no_teacher,
    request_of,
)
from tests.distill.fake_teacher import VOCABULARY, FakeTeacher

# -- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"seed": 1}, {"shuffle": False}, {"packing": True}], ids=str)
def test_it_says_of_each_batch_what_the_teacher_says(straight: Path, options: dict[str, Any]) -> None:
    cached, live = built(request_of(straight)), FakeTeacher()
    for batch in loaded(**options):
        found, said = cached.rows(batch), live.rows(batch)
        for part in (slice(0, 5), slice(5, batch.n_supervised)):
            chunk, log_p = found.chunk(part), said.chunk(part).values
            assert isinstance(chunk, TopKChunk)
            assert (chunk.n, chunk.weights) == (VOCABULARY, None)
            assert (chunk.ids.dtype, chunk.values.dtype, chunk.log_tail.dtype) == (np.int32, np.float32, np.float32)
            assert np.array_equal(chunk.ids, np.sort(np.argsort(-log_p, axis=1)[:, :6], axis=1))
            assert np.array_equal(chunk.values, np.take_along_axis(log_p, chunk.ids, axis=1))
            mass = np.exp(chunk.values).sum(axis=1) + np.exp(chunk.log_tail)
            np.testing.assert_allclose(mass, 1, rtol=1e-6)


def test_where_every_token_is_kept_it_says_the_same_to_the_bit(tmp_path: Path) -> None:
    cached, live = built(request_of(tmp_path / "cache", top_k=1000)), FakeTeacher()
    assert cached.cache.plan.layout.top_k == VOCABULARY
    for batch in loaded():
        found, said = (one.rows(batch).chunk(slice(None)) for one in (cached, live))
        assert isinstance(found, DenseChunk)
        assert np.array_equal(found.values, said.values)


def test_a_caller_may_write_over_a_chunk(straight: Path) -> None:
    cached, batch = built(request_of(straight)), next(loaded())
    rows = cached.rows(batch)
    first = rows.chunk(slice(0, 3))
    before = first.values.copy()
    first.values[:] = 0
    assert np.array_equal(rows.chunk(slice(0, 3)).values, before)


def test_float16_rounds_values_and_nothing_else(straight: Path, tmp_path: Path) -> None:
    exact, small = built(request_of(straight)), built(request_of(tmp_path / "cache", dtype="float16"))
    for batch in loaded():
        one, other = exact.rows(batch).chunk(slice(None)), small.rows(batch).chunk(slice(None))
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.log_tail, other.log_tail)
        assert (np.abs(one.values - other.values) <= 2.0**-11 * np.abs(one.values)).all()
        assert not np.array_equal(one.values, other.values)


def test_weights_are_kept_and_are_one_where_the_teacher_gives_none(tmp_path: Path) -> None:
    teacher = FakeTeacher(weighted=True)
    cached = built(request_of(tmp_path / "cache", weighted=True), teacher)
    for batch in loaded():
        chunk = cached.rows(batch).chunk(slice(None))
        assert np.array_equal(chunk.weights, (batch.tokens[batch.labels >= 0] % 3 > 0).astype(np.float32))
    plain = built(request_of(tmp_path / "plain", weighted=True))
    assert (plain.rows(next(loaded())).chunk(slice(None)).weights == 1).all()


def test_the_mass_that_is_kept_is_known(straight: Path, tmp_path: Path) -> None:
    live, kept = FakeTeacher(), []
    for batch in loaded():
        log_p = live.rows(batch).chunk(slice(None)).values
        kept.append(np.exp(np.sort(log_p, axis=1)[:, -6:].astype(np.float64)).sum(axis=1))
    assert built(request_of(straight)).kept_mass() == pytest.approx(np.concatenate(kept).mean(), rel=1e-6)
    assert built(request_of(tmp_path / "cache", top_k=VOCABULARY)).kept_mass() == 1


def test_only_targets_that_are_used_are_kept(straight: Path) -> None:
    cached = built(request_of(straight))
    assert cached.cache.plan.n_targets == sum(int(EXAMPLES[int(i)].supervised.sum()) for i in INDICES)
    unused = Loader(EXAMPLES, batch_size=1, seq_len=32, indices=np.array([4])).batch(0, 0)
    with pytest.raises(ValueError, match="no target"):
        cached.rows(unused)


@pytest.mark.parametrize("top_k", [6, VOCABULARY])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_uniform_teacher_speaks_in_the_form_of_a_cached_one(tmp_path: Path, top_k: int, weighted: bool) -> None:
    request, batch = request_of(tmp_path / "cache", top_k=top_k, weighted=weighted), next(loaded())
    found = UniformTeacher(request.layout, BACKEND).rows(batch)
    expected = built(request).rows(batch)
    for part in (slice(0, 7), slice(7, 10**6)):
        one, other = vars(found.chunk(part)), vars(expected.chunk(part))
        assert {name: np.shape(value) for name, value in one.items()} == {
            name: np.shape(value) for name, value in other.items()
        }
        mass = np.exp(one["values"]).sum(axis=1) + np.exp(one.get("log_tail", -np.inf))
        np.testing.assert_allclose(mass, 1, rtol=1e-6)


# -- building -------------------------------------------------------------------------------------------------------


def test_a_cache_that_is_complete_needs_no_teacher(straight: Path) -> None:
    heard, request = Heard(), request_of(straight)
    cached = open_or_build(request, EXAMPLES, INDICES, backend=BACKEND, teachers=no_teacher, reporter=heard)
    assert cached is not None
    assert heard.events == []
    assert bytes_to_write(request, Targets.of(EXAMPLES, INDICES)) == 0


def test_the_teacher_reads_little_padding_and_every_target_once(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    cached = built(request_of(tmp_path / "cache", shard_bytes=1 << 20), teacher)
    positions = sum(batch.tokens.size for batch in teacher.batches)
    assert sum(batch.n_supervised for batch in teacher.batches) == cached.cache.plan.n_targets
    assert positions <= 32 * len(INDICES)
    assert max(batch.tokens.size for batch in teacher.batches) <= 2048


def test_progress_counts_targets(tmp_path: Path) -> None:
    heard = Heard()
    cached = built(request_of(tmp_path / "cache"), reporter=heard)
    assert heard.progress()[0] == 0
    assert heard.progress()[-1] == cached.cache.plan.n_targets
    assert heard.progress() == sorted(heard.progress())


def test_the_size_is_known_before_the_data_are(straight: Path) -> None:
    n_targets = built(request_of(straight)).cache.plan.n_targets
    columns = n_targets * (6 * (2 + 4) + 4)
    assert columns <= cache_bytes(n_targets, 6, VOCABULARY) <= columns + 4096
    million = cache_bytes(10**6, 64, 32000, "float16")
    assert 1.0 < million / (10**6 * (64 * 4 + 4)) < 1.01
    assert cache_bytes(1, 10**6, 10) == cache_bytes(1, 10, 10)
    assert cache_bytes(5, 2, 10, weighted=True) == cache_bytes(5, 2, 10) + 20


def test_what_is_to_be_written_is_what_is_written(straight: Path, tmp_path: Path) -> None:
    targets, request = Targets.of(EXAMPLES, INDICES), request_of(tmp_path / "cache")
    planned = bytes_to_write(request, targets)
    sizes = [path.stat().st_size for path in straight.glob("shard-*")]
    assert sum(sizes) <= planned <= sum(sizes) + 2048 * len(sizes)
    shutil.copytree(straight, request.folder)
    shard_path(request.folder, 2).unlink()
    assert bytes_to_write(request, targets) < planned / 5


@pytest.mark.parametrize("batches", [0, 1, 4, 7])
def test_stopped_and_gone_on(straight: Path, tmp_path: Path, batches: int) -> None:
    request, teacher = request_of(tmp_path / "cache"), FakeTeacher()
    assert build(request, teacher, should_stop=lambda: len(teacher.batches) == batches) is None
    heard, again = Heard(), FakeTeacher()
    built(request, again, reporter=heard)
    assert contents(request.folder) == contents(straight)
    whole = FakeTeacher()
    built(request_of(tmp_path / "whole"), whole)
    assert len(again.batches) <= len(whole.batches) - max(0, batches - 1)


@pytest.mark.parametrize("lost", [[0], [3], [1, 2, 7], list(range(10))])
def test_shards_that_are_lost_come_back_with_the_same_bytes(straight: Path, tmp_path: Path, lost: list[int]) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(straight, folder)
    for shard in lost:
        shard_path(folder, shard).unlink()
    built(request_of(folder))
    assert contents(folder) == contents(straight)


def test_a_truncated_shard_is_made_again_and_that_is_said(straight: Path, tmp_path: Path) -> None:
    folder, heard = tmp_path / "cache", Heard()
    shutil.copytree(straight, folder)
    path = shard_path(folder, 5)
    os.truncate(path, path.stat().st_size - 100)
    built(request_of(folder), reporter=heard)
    assert contents(folder) == contents(straight)
    (notice,) = heard.notices()
    assert str(path) in notice
    assert "made again" in notice


def test_the_borders_of_a_cache_stay_when_the_size_of_shards_has_changed(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(straight, folder)
    shard_path(folder, 0).unlink()
    built(request_of(folder, shard_bytes=50_000))
    assert contents(folder) == contents(straight)


def test_what_a_killed_build_has_left_is_removed(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(straight, folder)
    shard_path(folder, 1).rename(folder / ".shard-00001.arrow.0123abcd.partial")
    built(request_of(folder))
    assert contents(folder) == contents(straight)
