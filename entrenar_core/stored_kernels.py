"""Kernels that Python calls with whole arrays, run from machine code in the user's cache without importing numba.

Importing numba and waking its compiler takes half a second of one core, as long as quantizing a gigabyte. So numba
compiles such a kernel once on a machine, what LLVM made of it is kept as an object file, and llvmlite alone loads that
in three milliseconds. The file is keyed as those of numba are (see `jit.cache_folder`), and by the processor.

Only kernels that allocate nothing can be kept: numba's runtime is not there when they run.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.jit import cache_folder, jit_enabled

_ENTRY = "entrenar_kernel"
_RETURNS = {"void": None, "int64": ctypes.c_int64, "boolean": ctypes.c_bool}
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class _Loaded:
    """A function in memory that belongs to `engine`; it takes a table of the address and the sizes of each array."""

    engine: Any
    call: Callable[..., Any]


@dataclass(frozen=True)
class StoredKernel:
    """A kernel over C-contiguous arrays of one or two dimensions.

    Attributes:
        module: dotted name of the kernel's module, which is imported when the kernel has to be compiled.
        name: the kernel in it.
        returns: numba's name of what it returns: void, int64 or boolean.
        plain: what is called instead where kernels are not compiled; None: the kernel's own Python.
    """

    module: str
    name: str
    returns: str = "void"
    plain: Callable[..., Any] | None = None
    _loaded: dict[str, _Loaded] = field(default_factory=dict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __call__(self, *arrays: np.ndarray) -> Any:
        """Call the kernel, without the GIL. Arrays with gaps go through numba's dispatcher, which knows strides."""
        has_gaps = not all([array.flags.c_contiguous for array in arrays])
        loaded = None if has_gaps else self._loaded.get(_signature(arrays)) or self._load(arrays)
        if loaded is None:
            return self._function()(*arrays)
        table: list[int] = []
        for array in arrays:
            table.append(array.__array_interface__["data"][0])
            table.extend(array.shape)
        return loaded.call((ctypes.c_int64 * len(table))(*table))

    def is_stored(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether arrays of these types find the kernel compiled."""
        folder = cache_folder()
        return folder is not None and self._path(folder, _signature(arrays)).exists()

    @property
    def n_loaded(self) -> int:
        """For how many types of arrays there is a function in memory."""
        return len(self._loaded)

    def _load(self, arrays: Sequence[np.ndarray]) -> _Loaded | None:
        """None where kernels are not compiled, or cannot be kept."""
        folder = cache_folder() if jit_enabled() else None
        if folder is None:
            return None
        signature = _signature(arrays)
        with self._lock:
            if signature not in self._loaded:
                path = self._path(folder, signature)
                machine_code = read_kept(path)
                if machine_code is None:
                    from entrenar_core.compile_kernels import compile_object

                    machine_code = compile_object(self._function(), arrays, self.returns, _ENTRY)
                    write_kept(path, machine_code)
                self._loaded[signature] = _link(machine_code, self.returns)
            return self._loaded[signature]

    def _path(self, folder: Path, signature: str) -> Path:
        return folder / f"{self.module}.{self.name}-{signature}-{_processor()}.o"

    def _function(self) -> Callable[..., Any]:
        if self.plain is not None and not jit_enabled():
            return self.plain
        function: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return function


def _signature(arrays: Sequence[np.ndarray]) -> str:
    return "_".join([f"{array.dtype.char}{array.ndim}" for array in arrays])


@cache
def _processor() -> str:
    """Eight hex digits over what machine code depends on besides its source: LLVM, the processor, numba's settings."""
    import llvmlite
    import llvmlite.binding as llvm

    settings = [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT")]
    features = llvm.get_host_cpu_features().flatten()
    known = [llvmlite.__version__, llvm.get_process_triple(), llvm.get_host_cpu_name(), features, *settings]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:8]


def read_kept(path: Path) -> bytes | None:
    """The machine code in a file; None where there is none, or only a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:  # what cannot be read is made again, and says so if it cannot be written either
        return None
    digest, machine_code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return machine_code if hashlib.sha256(machine_code).digest() == digest else None


def write_kept(path: Path, machine_code: bytes) -> None:
    """Keep machine code for later processes; another process may be writing the same."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(hashlib.sha256(machine_code).digest() + machine_code)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(f"{path.name} is compiled anew in each run: it cannot be kept ({error})", stacklevel=2)


def _link(machine_code: bytes, returns: str) -> _Loaded:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    function_type = ctypes.CFUNCTYPE(_RETURNS[returns], ctypes.c_void_p)
    return _Loaded(engine, function_type(engine.get_function_address(_ENTRY)))
