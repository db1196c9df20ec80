"""SIGKILL at any moment, also in the middle of a save: the resumed run ends with the same bytes.

The child process is real and so is the signal. To hit each place of a save, the child kills itself at its n-th call of
one of the system calls that a save is made of.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from entrenar_core.train.checkpoint_store import CHECKPOINTS, latest_checkpoint
from entrenar_core.train.interrupt import Interrupted, StopSignal
from tests.train.test_resume import StopAt, assert_same_end, go_on, start
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

CHILD = """
import os, pathlib, signal, sys
folder, call, n = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from entrenar_core.train.checkpoint_store import latest_checkpoint
from tests.train.test_resume import go_on, start
from tests.train.tiny_model import Listener

def deadly(function, calls=iter(range(1, 10**9))):
    def wrapper(*args, **kwargs):
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

if call == "endless":
    goes_on = latest_checkpoint(folder / "checkpoints", Listener()) is not None
    (go_on if goes_on else start)(folder, total_steps=10**6, save_every=1)
setattr(os, call, deadly(getattr(os, call)))
start(folder, keep_last=1, save_best=False, save_every=5)
"""


def child(folder: Path, call: str, n: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder), call, str(n), str(ROOT)], cwd=ROOT)


# fsync: twice when the metrics begin, then six times a save (metrics, model, optimizer, manifest, its folder, the one
# above), so 9 to 14 are the second save. The second rename gives it its name, the third takes away that of the first,
# which is then removed file by file.
PLACES = [("fsync", n) for n in (9, 10, 11, 12, 13, 14, 15)] + [
    ("rename", 2),
    ("rename", 3),
    ("rmdir", 1),
    ("unlink", 3),
]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    start(folder, keep_last=1, save_best=False, save_every=5)
    return folder


def test_killed_in_the_middle_of_a_save(straight: Path, tmp_path: Path) -> None:
    children = {place: child(tmp_path / f"{place[0]}{place[1]}", *place) for place in PLACES}
    for (call, n), process in children.items():
        assert process.wait(60) == -signal.SIGKILL, f"{call} is called less than {n} times"
    for call, n in PLACES:
        folder = tmp_path / f"{call}{n}"
        assert latest_checkpoint(folder / CHECKPOINTS, Listener()) is not None
        go_on(folder, keep_last=1, save_best=False, save_every=5)
        assert_same_end(straight, folder)
        assert [path.name for path in (folder / CHECKPOINTS).iterdir()] == ["step-000020"]


def newest_step(folder: Path) -> int:
    return max((int(path.name[5:]) for path in (folder / CHECKPOINTS).glob("step-*")), default=0)


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for _ in range(3):
        before, deadline = newest_step(folder), time.monotonic() + 60
        process = child(folder, "endless")
        while newest_step(folder) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(time.monotonic_ns() % 1000 * 1e-5)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert newest_step(folder) > before
    listener = Listener()
    checkpoint = latest_checkpoint(folder / CHECKPOINTS, listener)
    assert checkpoint is not None
    assert listener.events == []

    last = checkpoint.state.step + 3
    interrupt = StopSignal()
    with pytest.raises(Interrupted):
        go_on(folder, total_steps=10**6, save_every=1, stop=interrupt, callbacks=[StopAt(last, interrupt)])
    start(tmp_path / "straight", total_steps=10**6, save_every=1, stop_at=last)
    assert_same_end(tmp_path / "straight", folder)
