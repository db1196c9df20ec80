"""Two writers of one folder: the second is refused, and a writer that was killed leaves no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from entrenar_core.data.folder_lock import folder_lock
from entrenar_core.errors import OutputError

HOLDER = """
import os, pathlib, sys
from entrenar_core.data.folder_lock import folder_lock
with folder_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another process is writing"), folder_lock(tmp_path):
        pass
    with folder_lock(tmp_path):
        pass


def test_a_writer_that_was_killed_holds_no_lock(tmp_path: Path, project_root: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another process"), folder_lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written to") as caught, folder_lock(tmp_path / "absent"):
        pass
    assert caught.value.where == str(tmp_path / "absent")
