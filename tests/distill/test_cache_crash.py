"""SIGKILL while a cache is built, and a disk that gets full: what is complete stays, and the next build goes on.

One process gets ready and forks a child for each place where it is to die, so that the signal and the process are real
and the whole takes a second or two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from entrenar_core.distill.cache import bytes_to_write
from entrenar_core.distill.targets import Targets
from tests.distill.caches import EXAMPLES, INDICES, built, contents, request_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

# Each file is forced to disk, renamed, and its folder forced to disk: the manifest first, then shard after shard.
PLACES = [
    ("fsync", 1),  # the manifest has no name yet
    ("fsync", 2),  # it has, and there is no shard
    ("fsync", 3),  # the first shard has no name yet
    ("replace", 2),
    ("fsync", 4),
    ("replace", 7),
    ("fsync", 20),
    ("rows", 1),  # while the teacher is asked
    ("rows", 9),
]

PARENT = """
import os, pathlib, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from entrenar_core.errors import OutputError
from tests.distill import caches
from tests.distill.fake_teacher import FakeTeacher
folder, places = pathlib.Path(sys.argv[1]), sys.argv[3:]
caches.built(caches.request_of(folder / "warm"))  # kernels are compiled

def deadly(function, n, calls):
    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

def die_at(place):
    call, n = place.split(":")
    owner = FakeTeacher if call == "rows" else os
    setattr(owner, call, deadly(getattr(owner, call), int(n), []))
    caches.built(caches.request_of(folder / place))

def fill_the_disk():
    most = max(path.stat().st_size for path in (folder / "warm").iterdir()) - 1  # too little for the largest shard
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        caches.built(caches.request_of(folder / "full"))
    except OutputError as error:
        print(error, flush=True)

for place in [*places, "full"]:
    pid = os.fork()
    if pid == 0:
        fill_the_disk() if place == "full" else die_at(place)
        os._exit(0)
    print(place, os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with a cache for each place, and what the process said."""
    folder = tmp_path_factory.mktemp("killed")
    places = [f"{call}:{n}" for call, n in PLACES]
    command = [sys.executable, "-c", PARENT, str(folder), str(ROOT), *places]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    return folder, said.stdout


def goes_on(folder: Path, whole: Path) -> None:
    built(request_of(folder))
    assert contents(folder) == contents(whole)


def test_a_build_that_was_killed_goes_on_and_ends_with_the_same_bytes(killed: tuple[Path, str]) -> None:
    folder, said = killed
    complete = []
    for call, n in PLACES:
        name = f"{call}:{n}"
        assert f"{name} 9\n" in said, f"{call} is called less than {n} times"
        complete.append(len(list((folder / name).glob("shard-*"))))
        goes_on(folder / name, folder / "warm")
    assert complete[0] == 0
    assert 0 < max(complete) < len(list((folder / "warm").glob("shard-*")))


def test_a_disk_that_gets_full_keeps_what_is_complete(killed: tuple[Path, str]) -> None:
    folder, said = killed
    assert "File too large" in said
    assert "free some space" in said
    whole = [path.name for path in sorted((folder / "warm").glob("shard-*"))]
    kept = [path.name for path in sorted((folder / "full").glob("shard-*"))]
    assert 0 < len(kept) < len(whole)
    assert kept == whole[: len(kept)]
    assert list((folder / "full").glob("*.partial")) == []
    assert bytes_to_write(request_of(folder / "full"), Targets.of(EXAMPLES, INDICES)) > 0
    goes_on(folder / "full", folder / "warm")
