"""Caches that cannot be used or built, and what is said then."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.data.folder_lock import folder_lock
from entrenar_core.data.teacher_cache import MANIFEST, shard_path
from entrenar_core.distill.cache import open_or_build
from entrenar_core.errors import FormatError, ModelError, OutputError
from tests.distill.caches import (
    BACKEND,
    EXAMPLES,
    INDICES,
    KEY,
    Heard,
    build,
    built,
    contents,
    no_teacher,
    request_of,
)
from tests.distill.fake_teacher import FakeTeacher, stories


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"key": {**KEY, "temperature": 1.0}}, "teacher.temperature is 2.0 there and 1.0 here"),
        ({"top_k": 5}, "top_k is 6 there and 5 here"),
        ({"dtype": "float16"}, "dtype is float32 there and float16 here"),
        ({"n_tokens": 41}, "vocabulary is 40 there and 41 here"),
        ({"weighted": True}, "weighted is false there and true here"),
    ],
)
def test_a_cache_of_something_else_is_refused(straight: Path, changes: dict[str, Any], differs: str) -> None:
    before = contents(straight)
    with pytest.raises(OutputError) as caught:
        build(request_of(straight, **changes))
    assert differs in caught.value.message
    assert contents(straight) == before


def test_a_cache_of_other_data_is_refused(straight: Path) -> None:
    with pytest.raises(OutputError, match=r"data is .* there and .* here"):
        build(request_of(straight), examples=stories(seed=1))


def test_a_manifest_with_a_border_inside_an_example_is_refused(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(straight, folder)
    first = built(request_of(straight)).cache.plan.borders[1]
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace(f"  {first},\n", f"  {first - 1},\n"))
    with pytest.raises(FormatError, match="inside an example"):
        build(request_of(folder))


def test_a_cache_that_another_process_builds_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another process"):
        build(request)
    assert contents(tmp_path) == {}


def test_a_cache_that_is_complete_is_read_while_its_folder_is_locked(straight: Path) -> None:
    with folder_lock(straight):
        assert build(request_of(straight)) is not None


def test_a_build_that_another_process_has_completed_meanwhile_asks_no_teacher(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"

    def slow_lock(path: Path) -> Any:
        shutil.copytree(straight, folder, dirs_exist_ok=True)
        return folder_lock(path)

    monkeypatch.setattr("entrenar_core.distill.cache.folder_lock", slow_lock)
    cached = open_or_build(
        request_of(folder), EXAMPLES, INDICES, backend=BACKEND, teachers=no_teacher, reporter=Heard()
    )
    assert cached is not None


def test_a_disk_that_is_too_full_is_refused_before_the_teacher_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 3 * 2**18, 3 * 2**18))
    request = request_of(tmp_path / "cache", shard_bytes=1)
    monkeypatch.setattr("entrenar_core.data.teacher_cache.SHARD_OVERHEAD", 1 << 16)
    with pytest.raises(OutputError, match=r"needs 1\.\d MiB on disk, and 0\.8 MiB are free") as caught:
        open_or_build(request, EXAMPLES, INDICES, backend=BACKEND, teachers=no_teacher, reporter=Heard())
    assert "top_k" in str(caught.value.hint)
    assert not request.folder.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        build(request_of(tmp_path / "file" / "cache"))
    assert caught.value.where == str(tmp_path / "file" / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_named(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(straight, folder)
    shard_path(folder, 0).unlink()
    folder.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            build(request_of(folder))
    finally:
        folder.chmod(0o700)


def _one_nan(log_p: np.ndarray) -> np.ndarray:
    log_p[0, 7] = np.nan
    return log_p


def _large(log_p: np.ndarray) -> np.ndarray:
    return log_p * 1e5


def test_a_teacher_that_says_nan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite"):
        build(request_of(tmp_path / "cache"), FakeTeacher(change=_one_nan))
    assert list((tmp_path / "cache").glob("shard-*")) == []


def test_what_float16_cannot_hold_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float16 cannot hold") as caught:
        build(request_of(tmp_path / "cache", dtype="float16"), FakeTeacher(change=_large))
    assert "float32" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("teacher", "complaint"), [(FakeTeacher(n_tokens=41), "all 40"), (FakeTeacher(weighted=True), "weights")]
)
def test_a_teacher_that_was_not_announced_is_a_mistake(tmp_path: Path, teacher: FakeTeacher, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build(request_of(tmp_path / "cache"), teacher)
