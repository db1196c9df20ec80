"""Runs `entrenar` in a process of its own and asks the system for the largest resident set it had.

The kernel's high-water mark belongs to the process's own memory, unlike ``ru_maxrss``, which a child inherits from the
process that forked it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.command import TIMEOUT, environment

HAS_HIGH_WATER_MARK = Path("/proc/self/status").exists()

_PROGRAM = """
import sys
from pathlib import Path
from entrenar_cli.main import main

code = main(sys.argv[2:])
lines = Path("/proc/self/status").read_text().splitlines()
Path(sys.argv[1]).write_text(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(code)
"""


def peak_resident_bytes(folder: Path, *arguments: str | Path) -> int:
    """The peak of one command, which must succeed."""
    note = folder / "peak"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, note, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(note.read_text()) * 1024
