"""What is asked of CuPy is there: each name, in the version that the extras install. A GPU is not needed for that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.nvrtc

RUNTIME_NAMES = (
    "cuda.Device.compute_capability",
    "cuda.Device.id",
    "cuda.Module.load",
    "cuda.Module.get_function",
    "cuda.Function.__call__",
    "cuda.MemoryPointer.ptr",
    "cuda.MemoryPointer.copy_from_host",
    "cuda.MemoryPointer.copy_from_host_async",
    "cuda.PinnedMemoryPointer.ptr",
    "cuda.alloc_pinned_memory",
    "cuda.memory.OutOfMemoryError",
    "cuda.get_allocator",
    "cuda.set_allocator",
    "cuda.MemoryPool.malloc",
    "cuda.MemoryPool.total_bytes",
    "cuda.MemoryPool.used_bytes",
    "cuda.MemoryPool.free_all_blocks",
    "cuda.get_current_stream",
    "cuda.Stream.record",
    "cuda.Stream.synchronize",
    "cuda.Event.done",
    "cuda.runtime.memGetInfo",
    "cuda.runtime.getDeviceProperties",
    "__version__",
    "cuda.driver.funcSetAttribute",
    "cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
    "get_default_memory_pool",
    "ndarray.get",
    "ndarray.data",
)
NOT_ON_THE_GPU = ("cpu", "reference", "pool", "stages/idle")
"""Files whose array module is NumPy."""


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy", reason="CuPy is not installed (pip install 'entrenar[nvrtc]')")


def attribute(of: Any, name: str) -> Any:
    for part in name.split("."):
        of = getattr(of, part)
    return of


@pytest.mark.parametrize("name", RUNTIME_NAMES)
def test_the_runtime_finds_what_it_calls(cupy: Any, name: str) -> None:
    attribute(cupy, name)


def test_types_have_the_numbers_that_the_fake_gives_them(cupy: Any) -> None:
    from tests.cuda_host.fake_cupy import DTYPES

    runtime = cupy.cuda.runtime
    assert list(DTYPES) == [runtime.CUDA_R_32F, runtime.CUDA_R_16BF]


def array_functions(root: Path) -> Iterator[tuple[str, str]]:
    """File and name of each function that is looked up in a backend's array module: ``xp.name`` and ``….xp.name``."""
    for path in sorted((root / "entrenar_core").rglob("*.py")):
        where = path.relative_to(root / "entrenar_core").as_posix()
        if where.removeprefix("backend/").startswith(NOT_ON_THE_GPU):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.value if isinstance(node, ast.Attribute) else None
            if "xp" in (getattr(module, "attr", None), getattr(module, "id", None)):
                yield where, node.attr


def test_the_engine_finds_its_array_functions(cupy: Any, project_root: Path) -> None:
    used = list(array_functions(project_root))
    assert ("autograd/ops/shape.py", "concatenate") in used
    assert [(where, name) for where, name in used if not hasattr(cupy, name)] == []
