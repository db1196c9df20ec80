"""Kernels kept as object files do what numba's dispatchers do, and spare later processes the import of numba."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.float_arrays import decode_bf16 as plain_decode_bf16
from entrenar_core.jit import cache_folder, jit_enabled
from entrenar_core.stored_kernels import StoredKernel

HALVES = np.array([0x3F80, 0xC000, 0x0000, 0x7F80], np.uint16)
VALUES = np.array([1.0, -2.0, 0.0, np.inf], np.float32)

compiled_only = pytest.mark.skipif(not jit_enabled(), reason="nothing is compiled with ENTRENAR_JIT=0")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache without a single compiled kernel; its folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_folder.cache_clear()
    folder = cache_folder()
    assert folder is not None
    yield folder
    cache_folder.cache_clear()


def decoder() -> StoredKernel:
    return StoredKernel("entrenar_core.codecs.float_kernels", "decode_bf16", plain=plain_decode_bf16)


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@compiled_only
def test_a_kernel_is_kept_and_found_again(own_cache: Path) -> None:
    values, first, second = np.empty(4, np.float32), decoder(), decoder()
    assert not first.is_stored((HALVES, values))
    first(HALVES, values)
    np.testing.assert_array_equal(values, VALUES)
    assert second.is_stored((HALVES, values))
    kept = next(own_cache.glob("*decode_bf16*.o"))
    before = kept.stat().st_mtime_ns
    values[:] = 7
    second(HALVES, values)
    np.testing.assert_array_equal(values, VALUES)
    assert kept.stat().st_mtime_ns == before


@compiled_only
def test_a_damaged_file_is_made_again(own_cache: Path) -> None:
    values = np.empty(4, np.float32)
    decoder()(HALVES, values)
    kept = next(own_cache.glob("*decode_bf16*.o"))
    content = kept.read_bytes()
    for damaged in (b"", content[:-1], content[:40] + bytes([content[40] ^ 1]) + content[41:]):
        kept.write_bytes(damaged)
        values[:] = 7
        decoder()(HALVES, values)
        np.testing.assert_array_equal(values, VALUES)
        assert kept.read_bytes() != damaged


@compiled_only
def test_where_nothing_can_be_kept_the_kernel_runs_all_the_same(own_cache: Path) -> None:
    values = np.empty(4, np.float32)
    decoder()(HALVES, values)
    kept = next(own_cache.glob("*decode_bf16*.o"))
    kept.unlink()
    kept.mkdir()
    values[:] = 7
    with pytest.warns(UserWarning, match="decode_bf16.*compiled anew in each run"):
        decoder()(HALVES, values)
    np.testing.assert_array_equal(values, VALUES)


@compiled_only
def test_a_later_process_does_not_import_numba(own_cache: Path) -> None:
    decoder()(HALVES, np.empty(4, np.float32))
    code = """
import sys, numpy as np
from entrenar_core.codecs.registry import codec_for
print(codec_for("BF16").decode(np.array([[0x80, 0x3F, 0x00, 0xC0]], np.uint8)).tolist(), "numba" in sys.modules)
"""
    assert run_python(code, XDG_CACHE_HOME=str(own_cache.parents[1])) == "[[1.0, -2.0]] False"


@compiled_only
def test_arrays_with_gaps_give_the_same(own_cache: Path) -> None:
    spread, values = np.zeros(8, np.uint16), np.empty(4, np.float32)
    spread[::2] = HALVES
    kernel = decoder()
    kernel(spread[::2], values)
    np.testing.assert_array_equal(values, VALUES)
    assert kernel.n_loaded == 0


@compiled_only
def test_threads_that_come_first_together_load_one_function(own_cache: Path) -> None:
    kernel, results = decoder(), np.zeros((8, 4), np.float32)
    threads = [threading.Thread(target=kernel, args=(HALVES, row)) for row in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, np.tile(VALUES, (8, 1)))
    assert kernel.n_loaded == 1


@compiled_only
def test_a_kernel_that_allocates_is_refused() -> None:
    import numba

    from entrenar_core.compile_kernels import compile_object

    @numba.njit
    def doubled(values):
        room = np.empty(values.size, values.dtype)
        room[:] = values
        values += room

    with pytest.raises(ValueError, match="allocates memory"):
        compile_object(doubled, [VALUES], "void", "doubled")


def test_without_compilation_a_kernel_is_plain_python() -> None:
    code = """
import sys, numpy as np
from tests.test_stored_kernels import decoder, HALVES
values = np.empty(4, np.float32)
decoder()(HALVES, values)
print(values.tolist(), "llvmlite" in sys.modules)
"""
    assert run_python(code, ENTRENAR_JIT="0", XDG_CACHE_HOME="/nowhere") == "[1.0, -2.0, 0.0, inf] False"
