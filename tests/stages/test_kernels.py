"""Compiling is said once, and only where the cache of the machine has no kernels yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrenar_core.events import Compiling
from entrenar_core.stages.kernels import compiling_said, load_codecs
from tests.e2e.command import COMMAND, environment
from tests.stages.quantized import write_wide
from tests.train.tiny_model import Listener


def events_of(folder: Path, output: str, cache: Path, **more: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [*COMMAND, "quantize", "model.gguf", "-o", output, "--type", "f32", "--json"],
        cwd=folder,
        env={**environment(), "ENTRENAR_JIT": "1", "XDG_CACHE_HOME": str(cache), **more},
        capture_output=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.integration
def test_only_the_first_use_on_a_machine_compiles(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf")
    cold, warm = (events_of(tmp_path, f"{name}.gguf", tmp_path / "cache") for name in ("cold", "warm"))
    said = {"event": "compiling", "what": "F16, F32"}
    assert [event for event in cold if event["event"] == "compiling"] == [said]
    assert cold[0] == said, "before anything else happens"
    assert "compiling" not in [event["event"] for event in warm]


@pytest.mark.integration
def test_plain_python_compiles_nothing(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf")
    events = events_of(tmp_path, "out.gguf", tmp_path / "cache", ENTRENAR_JIT="0")
    assert "compiling" not in [event["event"] for event in events]


@pytest.mark.integration
def test_without_a_type_to_read_or_write_nothing_is_imported() -> None:
    code = (
        "import sys\n"
        "from entrenar_core.events import SilentReporter\n"
        "from entrenar_core.stages.kernels import load_codecs\n"
        "load_codecs([], [], SilentReporter())\n"
        "sys.exit('numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def test_loaded_codecs_are_not_compiled_again() -> None:
    load_codecs(["F16"], ["Q8_0"], Listener(), measures=True)
    again = Listener()
    load_codecs(["F16"], ["Q8_0"], again, measures=True)
    assert again.of(Compiling) == []


def test_nothing_is_said_where_nothing_is_compiled() -> None:
    heard = Listener()
    with compiling_said("nothing", heard):
        pass
    assert heard.events == []


@pytest.mark.integration
def test_quantizing_with_kept_kernels_does_not_import_numba(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf")
    code = """
import atexit, runpy, sys
atexit.register(lambda: print("numba" in sys.modules))
sys.argv = ["entrenar", "quantize", "model.gguf", "-o", "out.gguf", "--type", "q8_0", "--overwrite"]
runpy.run_module("entrenar_cli", run_name="__main__")
"""
    for compiles in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**environment(), "ENTRENAR_JIT": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.splitlines()[-1] == str(compiles)
