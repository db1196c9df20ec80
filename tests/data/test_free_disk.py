"""The room that a file system says it has."""

from __future__ import annotations

from pathlib import Path

from entrenar_core.data.free_disk import free_disk_bytes


def test_the_file_system_of_a_folder_that_does_not_exist_yet_is_found(tmp_path: Path) -> None:
    free = free_disk_bytes(tmp_path / "not" / "yet" / "there")
    assert free is not None
    assert free > 0
