"""The house keeps its order: imports go one way, heavy libraries stay behind their fences, files stay small.

The import order is a set of import-linter contracts in pyproject.toml; the fences around third-party libraries are read
from the syntax trees here. Both are also shown to catch a planted violation, so that they cannot pass by being blind.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE_ROOTS = ("entrenar_core", "entrenar_cli", "tests", "benchmarks", "examples", "docs", ".ci")
PRODUCT = r"entrenar_(core|cli)/"
ORACLES = r"(tests/oracle|benchmarks)/"
CORE = "entrenar_core"

# library -> (files that the fence is about, files among them that may import the library); None: nobody may
FENCES: dict[str, tuple[str, str | None]] = {
    "numba": (PRODUCT, rf"{CORE}/(jit\.py|backend/|codecs/|.*_kernels\.py)"),
    "llvmlite": (PRODUCT, rf"{CORE}/(jit\.py|backend/|codecs/|.*_kernels\.py)"),
    "cupy": (PRODUCT, rf"{CORE}/backend/"),
    "cupyx": (PRODUCT, rf"{CORE}/backend/"),
    "cupy_backends": (PRODUCT, rf"{CORE}/backend/"),
    "pyarrow": (PRODUCT, rf"{CORE}/data/"),
    "pydantic": (PRODUCT, rf"{CORE}/config/"),
    "yaml": (PRODUCT, rf"{CORE}/config/"),
    "jinja2": (PRODUCT, rf"{CORE}/tokenizer/"),
    "typer": (PRODUCT, r"entrenar_cli/"),
    "rich": (PRODUCT, r"entrenar_cli/"),
    "torch": ("", ORACLES),
    "transformers": ("", ORACLES),
    "peft": ("", ORACLES),
    "llama_cpp": ("", ORACLES),
    "pickle": (PRODUCT, None),
    "marshal": (PRODUCT, None),
    "shelve": (PRODUCT, None),
    "dill": (PRODUCT, None),
    "cloudpickle": (PRODUCT, None),
}
LONGEST_FILE = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}


def python_files(root: Path) -> list[Path]:
    """Every Python file of the project, relative to its root, sorted."""
    found = [path for source_root in SOURCE_ROOTS for path in (root / source_root).rglob("*.py")]
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, lazy ones and ``import_module("name")`` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and node.args and _is_dynamic_import(node.func):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _is_dynamic_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in {"import_module", "__import__", "importorskip"}


def broken_fences(root: Path) -> list[str]:
    """One line for each import of a library outside its fence: file, line, library."""
    found = []
    for path in python_files(root):
        name = path.as_posix()
        for line, module in imported_modules((root / path).read_text(encoding="utf-8")):
            fenced, allowed = FENCES.get(module.split(".")[0], (None, None))
            if fenced is not None and re.match(fenced, name) and not (allowed and re.match(allowed, name)):
                found.append(f"{name}:{line}: imports {module} outside its fence")
    return found


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the import-linter contracts of `root`'s pyproject.toml over the packages in `root`."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def small_house(project_root: Path, tmp_path: Path) -> Path:
    """A project with this project's contracts and a few empty modules in the right places."""
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    for name in ("errors", "codecs/floats", "config/load", "gguf/reader", "model/decoder", "backend/cpu"):
        plant(tmp_path, f"{CORE}/{name}.py", "")
    plant(tmp_path, "entrenar_cli/main.py", "from entrenar_core.model import decoder\n")
    return tmp_path


def plant(root: Path, name: str, source: str) -> None:
    """Write a module and the ``__init__.py`` of each folder above it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.relative_to(root).parents[:-1]:
        (root / folder / "__init__.py").touch()
    path.write_text(source, encoding="utf-8")


def test_imports_go_from_left_to_right(project_root: Path) -> None:
    result = lint_imports(project_root)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_house_in_order_passes(small_house: Path) -> None:
    result = lint_imports(small_house)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        (
            "gguf/reader.py",
            "from entrenar_core.model import decoder\n",
            "entrenar_core.gguf.reader -> entrenar_core.model",
        ),
        (
            "gguf/reader.py",
            "from entrenar_core.config import load\n",
            "entrenar_core.gguf.reader -> entrenar_core.config",
        ),
        (
            "codecs/floats.py",
            "def late():\n    import entrenar_core.backend.cpu\n",
            "codecs.floats -> entrenar_core.backend",
        ),
        ("model/decoder.py", "import entrenar_cli.main\n", "entrenar_core.model.decoder -> entrenar_cli"),
        ("extras/thing.py", "", "extras"),
    ],
    ids=["right to left", "sibling", "lazy right to left", "core to command line", "module without a place"],
)
def test_a_planted_wrong_import_is_caught(small_house: Path, name: str, source: str, complaint: str) -> None:
    plant(small_house, f"{CORE}/{name}", source)
    result = lint_imports(small_house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert complaint in result.stdout


def test_libraries_stay_behind_their_fences(project_root: Path) -> None:
    assert broken_fences(project_root) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("entrenar_core/model/decoder.py", "import numba\n"),
        ("entrenar_core/model/decoder.py", "from numba.core import types\n"),
        ("entrenar_core/codecs/floats.py", "import cupy as cp\n"),
        ("entrenar_core/gguf/reader.py", "def late():\n    import pyarrow.parquet as pq\n"),
        ("entrenar_cli/main.py", "from pydantic import BaseModel\n"),
        ("entrenar_core/stages/train.py", "from rich.console import Console\n"),
        ("entrenar_core/train/state.py", "import pickle\n"),
        ("entrenar_core/model/load.py", 'import importlib\n\nimportlib.import_module("torch.nn")\n'),
        ("tests/model/test_decoder.py", 'import pytest\n\ntorch = pytest.importorskip("torch")\n'),
    ],
)
def test_a_planted_broken_fence_is_caught(tmp_path: Path, name: str, source: str) -> None:
    plant(tmp_path, name, source)
    assert [line.split(":")[0] for line in broken_fences(tmp_path)] == [name]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("entrenar_core/jit.py", "import numba\n"),
        ("entrenar_core/merge/ties_kernels.py", "import numba\n"),
        ("entrenar_core/backend/cuda.py", "import cupy\n"),
        ("entrenar_core/config/load.py", "import yaml\n"),
        ("tests/oracle/test_logits.py", "import llama_cpp\n"),
        ("benchmarks/lora_step.py", "import torch\n"),
        ("tests/data/test_source.py", "import pyarrow\n"),
    ],
)
def test_libraries_are_allowed_inside_their_fences(tmp_path: Path, name: str, source: str) -> None:
    plant(tmp_path, name, source)
    assert broken_fences(tmp_path) == []


def test_every_source_folder_is_a_package_that_imports_nothing(project_root: Path) -> None:
    for package in ("entrenar_core", "entrenar_cli"):
        folders = {path.parent for path in (project_root / package).rglob("*.py") if "__pycache__" not in path.parts}
        for folder in folders:
            initializer = folder / "__init__.py"
            assert initializer.is_file(), f"{folder} lacks an __init__.py"
            source = initializer.read_text(encoding="utf-8")
            assert ast.get_docstring(ast.parse(source)), f"{initializer} lacks a docstring"
            assert list(imported_modules(source)) == [], f"{initializer} imports something"


def test_no_source_file_is_long(project_root: Path) -> None:
    sizes = {path: len((project_root / path).read_bytes().splitlines()) for path in python_files(project_root)}
    assert {str(path): size for path, size in sizes.items() if size > LONGEST_FILE} == {}


def test_no_file_has_a_name_that_says_nothing(project_root: Path) -> None:
    assert [str(path) for path in python_files(project_root) if {*path.parts, path.stem} & VAGUE_NAMES] == []
