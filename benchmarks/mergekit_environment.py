"""mergekit in a virtual environment of its own: it is installed there, run from outside, and never imported here.

The folder is ``~/.cache/entrenar/mergekit-VERSION``, or what ENTRENAR_MERGEKIT names. mergekit is LGPL.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

VERSION = "0.1.5"
TORCH = "torch==2.13.0"
PACKAGES = (f"mergekit=={VERSION}", "transformers==5.24.0", "safetensors==0.8.0", "pydantic==2.14.4", "click==8.5.1")
"""Versions that were seen to work together. torch comes first and alone, so that a build for the CPU is kept."""

_COMPLETE = "complete.txt"
_ROOT = Path(__file__).parents[1]


def environment_folder() -> Path:
    """Where the environment is or will be."""
    stated = os.environ.get("ENTRENAR_MERGEKIT")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(stated) if stated else cache / "entrenar" / f"mergekit-{VERSION}"


def installed_python(folder: Path | None = None) -> Path:
    """The environment's interpreter; installs what is missing (a minute, 1.6 GB).

    Raises:
        CalledProcessError: pip failed.
    """
    where = (folder or environment_folder()).absolute()
    python, complete = where / "bin" / "python", where / _COMPLETE
    wanted = "\n".join((TORCH, *PACKAGES))
    if complete.is_file() and complete.read_text(encoding="utf-8") == wanted:
        return python
    print(f"  installing mergekit {VERSION} into {where} ...", file=sys.stderr, flush=True)
    venv.create(where, with_pip=True)
    for packages in ((TORCH,), (TORCH, *PACKAGES)):
        subprocess.run([python, "-m", "pip", "install", "-qq", *packages], check=True, stdout=sys.stderr)
    complete.write_text(wanted, encoding="utf-8")
    return python


def mergekit_command(config: Path, output: Path, options: Sequence[str] = ()) -> list[str]:
    """mergekit's own command for a merge."""
    script = installed_python().with_name("mergekit-yaml")
    return [str(script), str(config), str(output), "--quiet", "--no-write-model-card", *options]


def run_in_environment(module: str, arguments: Sequence[str], given: str = "") -> str:
    """Run a module of `benchmarks` with the environment's interpreter; returns what it prints.

    Raises:
        CalledProcessError: it failed; what it said was on stderr.
    """
    command = [str(installed_python()), "-m", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return process.stdout
