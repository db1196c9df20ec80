"""How kernels are compiled and cached: the only policy on numba flags.

A kernel is an ordinary Python function over arrays and a row range. `kernel` compiles it without the GIL, so that
threads of ours run it side by side; with ``ENTRENAR_JIT=0`` it stays plain Python, to be debugged, covered and mutated.
Compiled code is cached in a folder that only the user can read, keyed by the text of every kernel file, because numba
itself does not notice an edit in a callee that lives in another file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from entrenar_core.user_cache import user_cache

Function = TypeVar("Function", bound=Callable[..., Any])

REASSOCIATING = frozenset({"contract", "reassoc", "nsz"})
"""Fast-math flags that let a reduction vectorise and still keep NaN and infinity."""

FUSING = frozenset({"contract"})
"""Multiply-adds may be fused, but keep their order: what a polynomial or a split constant needs."""


def jit_enabled() -> bool:
    """False when ``ENTRENAR_JIT=0`` asks for plain Python kernels."""
    return os.environ.get("ENTRENAR_JIT", "1") != "0"


def kernel(*, exact: bool = False, ordered: bool = False, inline: bool = False) -> Callable[[Function], Function]:
    """Compile a kernel on first call.

    exact: no change of floating-point arithmetic at all (codecs: contraction changes bytes).
    ordered: fused multiply-adds, but no other order of operations (elementary functions).
    inline: becomes a part of the kernels that call it, with their flags. A call that is left counts a reference of each
        array it is given, atomically and twice: as much time as sixteen values take.
    """

    def compile_lazily(function: Function) -> Function:
        if not jit_enabled():
            return function
        import numba  # importing numba takes most of a second and plain Python mode has no need of it

        _listen_to_numba()
        folder = cache_folder()
        if folder is not None:
            numba.config.CACHE_DIR = str(folder)
        flags = False if exact else set(FUSING if ordered else REASSOCIATING)
        options = {"inline": "always" if inline else "never"}
        return numba.njit(nogil=True, cache=folder is not None, fastmath=flags, error_model="numpy", **options)(
            function
        )

    return compile_lazily


_announcement: ContextVar[Callable[[], None] | None] = ContextVar("announcement", default=None)


@contextmanager
def before_compiling(announce: Callable[[], None]) -> Iterator[None]:
    """Call `announce` once, when this thread is about to compile a kernel inside the block.

    Kernels that the cache holds are not compiled. Other threads announce nothing: who listens lives on this one.
    """
    before = _announcement.set(announce)
    try:
        yield
    finally:
        _announcement.reset(before)


def announce_compiling() -> None:
    """Say that a kernel is about to be compiled, where `before_compiling` asks for it."""
    announce = _announcement.get()
    if announce is not None:
        _announcement.set(None)
        announce()


@cache
def _listen_to_numba() -> None:
    """Have numba's compilations announced. It is not imported for that: a process may never need it."""
    from numba.core.event import Event, Listener, register

    class Compilations(Listener):
        def on_start(self, event: Event) -> None:
            announce_compiling()

        def on_end(self, event: Event) -> None:
            """Nothing is said then."""

    register("numba:compile", Compilations())


@cache
def cache_folder() -> Path | None:
    """The folder of compiled kernels, or None (with a warning) where no private folder can be made."""
    return private_folder(user_cache() / f"kernels-{kernel_sources_hash()}")


def private_folder(folder: Path) -> Path | None:
    """The folder, made if need be; None (with a warning) where it cannot be made or others may write there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        warnings.warn(f"kernels are compiled anew in each run: {folder} cannot be made ({error})", stacklevel=3)
        return None
    foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if foreign or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        warnings.warn(f"kernels are compiled anew in each run: {folder} is writable by others", stacklevel=3)
        return None
    return folder


def kernel_sources() -> list[Path]:
    """Every file that may hold kernels, sorted."""
    root = Path(__file__).parent
    folders = ["backend/cpu_kernels/*.py", "codecs/*.py", "**/*_kernels.py"]
    return sorted({root / "jit.py", *(file for folder in folders for file in root.glob(folder))})


def kernel_sources_hash() -> str:
    """Sixteen hex digits over the text of `kernel_sources`."""
    digest = hashlib.sha256()
    for path in kernel_sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
