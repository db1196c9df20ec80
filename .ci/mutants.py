"""Mutation testing: change the code in small ways and see that a test fails each time.

The project is copied to a temporary folder, because mutmut writes beside what it mutates. In the copy the ``@kernel``
lines are removed: mutmut leaves decorated functions alone, and with ``ENTRENAR_JIT=0`` the decorator does nothing.
What is mutated and which tests judge it stands under ``[tool.mutmut]`` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("entrenar_core", "entrenar_cli", "tests", "configs", "examples")
KERNEL_LINE = re.compile(r"^@kernel\(.*\)\n", re.MULTILINE)


def main() -> int:
    """Mutate, report and return 1 when fewer than ``--min-score`` percent of the mutants were noticed."""
    parser = argparse.ArgumentParser(description="mutation tests of entrenar")
    parser.add_argument("--changed-since", metavar="COMMIT", help="mutate only the files that changed since COMMIT")
    parser.add_argument("--only", metavar="GLOB", action="append", help="mutate these files instead of the default")
    parser.add_argument("--tests", metavar="PATH", action="append", help="judge by these tests instead of the default")
    parser.add_argument("--min-score", type=float, default=80.0, help="percent of mutants to be noticed (default 80)")
    options = parser.parse_args()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    patterns = options.only or config["only_mutate"]
    tests = options.tests or config["pytest_add_cli_args_test_selection"]
    if options.changed_since:
        patterns = [name for name in changed_files(options.changed_since) if matches(name, patterns)]
        if not patterns:
            print(f"no file under mutation testing changed since {options.changed_since}: nothing to do")
            return 0
    with tempfile.TemporaryDirectory(prefix="entrenar-mutants-") as folder:
        copy = copy_project(Path(folder) / "project", tests, patterns)
        run_mutmut(copy, "run")
        run_mutmut(copy, "results")
        run_mutmut(copy, "export-cicd-stats")
        stats = json.loads((copy / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    return report(stats, options.min_score)


def matches(name: str, patterns: list[str]) -> bool:
    """True when one of the glob patterns fits."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def changed_files(commit: str) -> list[str]:
    """Python files that differ between `commit` and the working tree."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", commit, "--", "*.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def copy_project(copy: Path, tests: list[str], patterns: list[str]) -> Path:
    """Copy what the tests need, with plain kernels and a mutmut section that fits what there is."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy / "entrenar_core").rglob("*.py"):
        path.write_text(KERNEL_LINE.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    there = [name for name in tests if (copy / name).exists()]
    for key, value in (("only_mutate", patterns), ("pytest_add_cli_args_test_selection", there)):
        text = re.sub(rf"(?ms)^{key} = \[.*?\]$", f"{key} = {json.dumps(value)}", text)
    (copy / "pyproject.toml").write_text(text, encoding="utf-8")
    return copy


def run_mutmut(copy: Path, command: str) -> None:
    """Run one mutmut command in the copy; its output is shown."""
    shared = ROOT.parent / "shared" / "data"
    environment = os.environ | {"ENTRENAR_JIT": "0", "PYTHONPATH": ""}
    if shared.is_dir():
        environment.setdefault("ENTRENAR_SHARED_DATA", str(shared))
    subprocess.run([sys.executable, "-m", "mutmut", command], cwd=copy, env=environment, check=True)


def report(stats: dict[str, int], min_score: float) -> int:
    """Print the counts and the score; return the exit code."""
    noticed = stats["killed"] + stats["timeout"] + stats["segfault"]
    total = stats["total"] - stats["skipped"]
    score = 100.0 * noticed / total if total else 0.0
    print(f"mutants: {total}, noticed {noticed}, survived {stats['survived']}, without a test {stats['no_tests']}")
    print(f"score: {score:.1f} % (at least {min_score:g} % wanted)")
    return 0 if score >= min_score else 1


if __name__ == "__main__":
    sys.exit(main())
