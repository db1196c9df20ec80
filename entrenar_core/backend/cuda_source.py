"""The kernel files of the CUDA backend: their text for an element type, and what their kernels take.

A call is checked against the kernel's signature before it reaches a device: a wrong array is an error with its name in
it, and plain numbers get the width that the kernel reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

ELEMENT_NAMES = {"float32": "float", "bfloat16": "bf16"}
"""What a kernel file's element type is called in C, by the name of the dtype."""

_SCALARS: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "unsigned short": np.uint16,
    "bool": np.bool_,
}
_NAMES = {ctype: np.dtype(scalar).name for ctype, scalar in _SCALARS.items()}
_NEEDS = re.compile(r"\A// needs ((?:\w+\.cuh ?)+)$", re.MULTILINE)
_UNFUSED = re.compile(r"^// no fused multiply-adds$", re.MULTILINE)
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)')


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """``float32``, ``bfloat16``: NumPy makes the text anew each time, which costs more than a launch may."""
    return dtype.name


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `ctype` without const and without the star.

    An array must be contiguous, unless its name begins with ``strided_``.
    """

    name: str
    ctype: str
    is_array: bool
    is_const: bool


@dataclass(frozen=True)
class Kernel:
    """A kernel of one file, for one element type (the name of a dtype)."""

    file: str
    name: str
    element: str
    parameters: tuple[Parameter, ...]

    def checked(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments as the kernel reads them: contiguous arrays of the right dtype, None for an absent one, and
        numbers of the right width.

        Raises:
            ValueError: an array has another dtype or layout or is on the host, or there are too many or too few
                arguments.
        """
        if len(arguments) != len(self.parameters):
            raise ValueError(f"{self.name}: {len(arguments)} arguments for {len(self.parameters)} parameters")
        return [self._argument(*pair) for pair in zip(self.parameters, arguments, strict=True)]

    def _argument(self, parameter: Parameter, value: Any) -> Any:
        if not parameter.is_array:
            return self._number(parameter, value)
        if value is None:
            return None
        wanted = self.element if parameter.ctype == "T" else _NAMES[parameter.ctype]
        if isinstance(value, np.ndarray):
            raise ValueError(f"{self.name}: {parameter.name} is an array of the host")
        may_have_gaps = parameter.name.startswith("strided_")
        if dtype_name(value.dtype) != wanted or not (may_have_gaps or value.flags.c_contiguous):
            layout = "" if value.flags.c_contiguous else " with gaps"
            raise ValueError(
                f"{self.name}: {parameter.name} is {value.dtype.name} {value.shape}{layout},"
                f" but contiguous {wanted} is needed"
            )
        return value

    def _number(self, parameter: Parameter, value: Any) -> Any:
        try:
            return _SCALARS[parameter.ctype](value)
        except OverflowError as error:
            raise ValueError(f"{self.name}: {parameter.name} = {value} does not fit {parameter.ctype}") from error


@dataclass(frozen=True)
class KernelFile:
    """The text of one `.cu` file after the common header, and its kernels by name.

    is_unfused: every product and every sum is rounded by itself, so that a result has the bits that the CPU gives it.
    """

    name: str
    text: str
    signatures: dict[str, tuple[Parameter, ...]]
    is_unfused: bool = False

    def kernel(self, name: str, element: str) -> Kernel:
        return Kernel(self.name, name, element, self.signatures[name])


def kernel_file_names() -> list[str]:
    """The names of all kernel files, sorted, without their suffix."""
    folder = files("entrenar_core.backend.cuda_kernels")
    return sorted(entry.name.removesuffix(".cu") for entry in folder.iterdir() if entry.name.endswith(".cu"))


@cache
def kernel_file(name: str) -> KernelFile:
    """The kernel file of this name."""
    return with_header(name, (files("entrenar_core.backend.cuda_kernels") / f"{name}.cu").read_text(encoding="utf-8"))


def with_header(name: str, text: str) -> KernelFile:
    """A kernel file of this text, which comes after the common header and those that its first line may name.

    A line ``// no fused multiply-adds`` in any of them makes it `KernelFile.is_unfused`.
    """
    folder, needed = files("entrenar_core.backend.cuda_kernels"), _NEEDS.match(text)
    names = ("common.cuh", *(needed[1].split() if needed else ()))
    whole = "".join((folder / each).read_text(encoding="utf-8") for each in names) + f'#line 1 "{name}.cu"\n{text}'
    return KernelFile(name, whole, signatures(text), _UNFUSED.search(whole) is not None)


@cache
def kernel(file: str, name: str, element: str) -> Kernel:
    """The kernel `name` of a file, for an element type."""
    return kernel_file(file).kernel(name, element)


def signatures(text: str) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of the kernels that a text declares, by the kernels' names.

    Raises:
        ValueError: a kernel is not written `extern "C" __global__ void name(parameters)`, or takes what is neither a
            plain number nor an array of those or of T.
    """
    found = {match[1]: _parameters(match[2]) for match in _KERNEL.finditer(text)}
    if len(found) != text.count("__global__"):
        raise ValueError(f'only {sorted(found)} are kernels of the form extern "C" __global__ void name(parameters)')
    return found


def _parameters(text: str) -> tuple[Parameter, ...]:
    return tuple(_parameter(" ".join(part.split())) for part in text.split(","))


def _parameter(text: str) -> Parameter:
    declared, name = text.rsplit(" ", 1)
    is_array = declared.endswith("*")
    ctype = declared.removesuffix("*").removeprefix("const ").strip()
    if ctype != "T" and ctype not in _SCALARS:
        raise ValueError(f"{text!r}: a kernel's parameters are plain numbers, or arrays of those or of T")
    return Parameter(name, ctype, is_array, declared.startswith("const "))
