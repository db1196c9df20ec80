"""Compiles a kernel over arrays to an object file that runs without numba: see `stored_kernels`.

The entry takes one pointer to a table of 64-bit numbers: for each array its address, then its sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_FROM_NUMBA = ("numba_", "NRT_")
"""How the functions of numba's runtime begin, which is in no process that has not imported numba."""

_ALLOCATES = re.compile("NRT_.*alloc", re.IGNORECASE)
"""The part of numba's runtime that is called on purpose: the rest frees arrays that are numba's own, or raises."""


def compile_object(kernel: Callable[..., Any], arrays: Sequence[np.ndarray], returns: str, entry: str) -> bytes:
    """The object file of a kernel.

    Args:
        kernel: as `jit.kernel` made it.
        arrays: examples of what it is called with, of one or two dimensions; they are taken as C-contiguous.
        returns: numba's name of the result's type.
        entry: what the function is called in the file.

    Raises:
        ValueError: the kernel allocates memory, so it cannot run without numba.
    """
    views, at = [], 0
    for array in arrays:
        views.append(_view(array, at))
        at += 1 + array.ndim
    arguments = _together(views)

    def call(table):
        return kernel(*arguments(table))

    signature = getattr(types, returns)(types.CPointer(types.int64))
    compiled = numba.cfunc(signature, error_model="numpy")(call)
    module = llvm.parse_assembly(compiled.inspect_llvm())
    module.get_function(compiled.native_name).name = entry
    _define_error_paths(module)
    _, processor, features = cpu_target.target_context.codegen().magic_tuple()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=processor, features=features, opt=3, codemodel="jitdefault", jit=True
    )
    machine_code: bytes = target.emit_object(module)
    return machine_code


@intrinsic
def _pointer(typingctx, address):
    """An address as a pointer to anything."""

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), emit


def _view(array: np.ndarray, at: int) -> Callable[..., Any]:
    """A function that makes the array whose address and sizes stand at entry `at` of a table."""
    dtype = numba.np.numpy_support.as_dtype(numba.from_dtype(array.dtype))

    if array.ndim == 1:

        @numba.njit
        def view(table):
            return numba.carray(_pointer(table[at]), (table[at + 1],), dtype)

    else:

        @numba.njit
        def view(table):
            return numba.carray(_pointer(table[at]), (table[at + 1], table[at + 2]), dtype)

    return view


def _together(views: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """A function that makes a tuple of all arrays from a table."""
    last = views[-1]
    if len(views) == 1:
        return numba.njit(lambda table: (last(table),))
    first = _together(views[:-1])
    return numba.njit(lambda table: (*first(table), last(table)))


def _define_error_paths(module: llvm.ModuleRef) -> None:
    """Give a body to what numba's wrapper calls when a kernel raises, which none can: it ends the process."""
    declared = [function for function in module.functions if function.is_declaration]
    missing = [function for function in declared if function.name.startswith(_FROM_NUMBA)]
    if any(_ALLOCATES.match(one.name) for one in missing):
        raise ValueError("the kernel allocates memory, which takes numba's runtime: pass it scratch arrays")
    bodies = [re.sub(r"^\s*declare (.*\)).*$", r"define \1 { unreachable }", str(one).strip()) for one in missing]
    module.link_in(llvm.parse_assembly("\n".join(bodies)))
