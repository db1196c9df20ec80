"""The kernel files as machine code for a GPU: NVRTC compiles them, and the user's cache keeps what it made.

That needs neither a GPU nor its driver, so the tests compile what a run on any GPU will load. CuPy's `RawModule` would
not do: it adds -ftz=true, with which numbers below 1.2e-38 are 0 on the GPU and not on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.backend.cuda_source import ELEMENT_NAMES, KernelFile
from entrenar_core.jit import announce_compiling, private_folder
from entrenar_core.stored_kernels import read_kept, write_kept
from entrenar_core.user_cache import user_cache


class CompileError(Exception):
    """NVRTC refuses a kernel file; the message is its log."""


@dataclass(frozen=True)
class MachineCode:
    """What CUDA loads as a module: a cubin, or PTX that the driver compiles on; and what NVRTC had to say about it."""

    image: bytes
    log: str


def architecture_of(capability: int) -> str:
    """What to compile for on a GPU of this compute capability (90 for 9.0).

    A GPU that is newer than NVRTC gets PTX of the newest architecture before it, which its driver compiles.
    """
    from cupy_backends.cuda.libs import nvrtc

    known = nvrtc.getSupportedArchs()
    return f"sm_{capability}" if capability in known else f"compute_{max(each for each in known if each < capability)}"


def compile_kernels(file: KernelFile, element: str, architecture: str, extra: Sequence[str] = ()) -> MachineCode:
    """A kernel file for arrays of `element` (the name of a dtype), on an architecture such as sm_90 or compute_90.

    Raises:
        CompileError: with NVRTC's log.
    """
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(file.text, f"{file.name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*_options(file, element, architecture), *extra))
        image = nvrtc.getCUBIN(program) if architecture.startswith("sm_") else nvrtc.getPTX(program)
        return MachineCode(image, nvrtc.getProgramLog(program).strip("\0\n "))
    except nvrtc.NVRTCError as error:
        raise CompileError(f"{file.name}.cu for {element} on {architecture}: {_log(program, error)}") from error
    finally:
        nvrtc.destroyProgram(program)


def _log(program: int, error: Exception) -> str:
    from cupy_backends.cuda.libs import nvrtc

    return f"{error}\n{nvrtc.getProgramLog(program)}"


def kept_kernels(file: KernelFile, element: str, architecture: str) -> bytes:
    """The image of `compile_kernels`, compiled once on this machine."""
    from cupy_backends.cuda.libs import nvrtc

    known = (file.text, *_options(file, element, architecture), *map(str, nvrtc.getVersion()))
    digest = hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]
    folder = private_folder(user_cache() / "cuda-kernels")
    path = None if folder is None else folder / f"{file.name}-{element}-{architecture}-{digest}"
    image = None if path is None else read_kept(path)
    if image is None:
        announce_compiling()
        image = compile_kernels(file, element, architecture).image
        if path is not None:
            write_kept(path, image)
    return image


def _options(file: KernelFile, element: str, architecture: str) -> tuple[str, ...]:
    fused = f"--fmad={'false' if file.is_unfused else 'true'}"
    return f"-arch={architecture}", "--std=c++17", f"-DELEMENT={ELEMENT_NAMES[element]}", fused
