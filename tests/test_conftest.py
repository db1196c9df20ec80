"""The rules that conftest adds to pytest, each seen from outside in a small project of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration  # each test starts pytest once more

SKIPS_ITSELF = (
    'import pytest\n\npytest.importorskip("no_such_library")\n\n\ndef test_never() -> None:\n    assert True\n'
)
SKIPS_IN_TEST = 'import pytest\n\n\ndef test_it() -> None:\n    pytest.importorskip("no_such_library")\n'
NEEDS_DATA = "def test_it(shared_data) -> None:\n    assert shared_data\n"


@pytest.fixture
def project(tmp_path: Path, project_root: Path) -> Path:
    for folder in ("oracle", "e2e"):
        (tmp_path / "inner" / "tests" / folder).mkdir(parents=True)
    shutil.copy(project_root / "tests" / "conftest.py", tmp_path / "inner" / "tests")
    shutil.copy(project_root / "pyproject.toml", tmp_path / "inner")
    return tmp_path / "inner"


def run_pytest(project: Path, *arguments: str, **environment: str) -> str:
    stripped = {key: value for key, value in os.environ.items() if not key.startswith(("ENTRENAR_", "PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(
        command, cwd=project, env=stripped | environment, capture_output=True, text=True, check=False, timeout=120
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("source", [SKIPS_ITSELF, SKIPS_IN_TEST], ids=["whole file", "one test"])
def test_a_missing_oracle_is_skipped_and_counted_with_its_reason(project: Path, source: str) -> None:
    (project / "tests" / "oracle" / "test_one.py").write_text(source)
    output = run_pytest(project)
    assert "1 because: could not import 'no_such_library'" in output
    assert output.splitlines()[-1].startswith("1 skipped in")


@pytest.mark.parametrize("source", [SKIPS_ITSELF, SKIPS_IN_TEST], ids=["whole file", "one test"])
def test_a_missing_oracle_fails_where_oracles_are_required(project: Path, source: str) -> None:
    (project / "tests" / "oracle" / "test_one.py").write_text(source)
    output = run_pytest(project, ENTRENAR_REQUIRE_ORACLES="1")
    assert "allows no skip, but: could not import 'no_such_library'" in output
    assert "skipped" not in output.splitlines()[-1]


@pytest.mark.slow
def test_a_missing_compiler_fails_where_oracles_are_required(project: Path) -> None:
    source = SKIPS_IN_TEST.replace("def test_it", "@pytest.mark.nvrtc\ndef test_it")
    (project / "tests" / "test_one.py").write_text(source)
    assert run_pytest(project).splitlines()[-1].startswith("1 skipped in")
    assert run_pytest(project, ENTRENAR_REQUIRE_ORACLES="1").splitlines()[-1].startswith("1 failed in")


def test_absent_shared_data_stay_a_skip_where_oracles_are_required(project: Path) -> None:
    (project / "tests" / "oracle" / "test_one.py").write_text(NEEDS_DATA)
    output = run_pytest(project, ENTRENAR_REQUIRE_ORACLES="1")
    assert "1 because: shared data are absent" in output


def test_shared_data_are_found_where_the_environment_says(project: Path, tmp_path: Path) -> None:
    (project / "tests" / "test_one.py").write_text(NEEDS_DATA)
    output = run_pytest(project, ENTRENAR_SHARED_DATA=str(tmp_path))
    assert output.splitlines()[-1].startswith("1 passed")


@pytest.mark.slow
def test_tests_of_the_command_line_count_as_integration(project: Path) -> None:
    (project / "tests" / "e2e" / "test_one.py").write_text("def test_it() -> None:\n    assert True\n")
    assert "1 passed" in run_pytest(project, "-m", "integration")
    assert "1 deselected" in run_pytest(project, "-m", "not integration")
