"""llama.cpp's own quantizer, through llama-cpp-python: the peer of `entrenar quantize`."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from entrenar_core.gguf.keys import FileType


def llama_quantize(source: Path, target: Path, mix: str, threads: int = 2) -> None:
    """Write `source` in a mix such as ``q4_k_m``, as llama-quantize does.

    Raises:
        RuntimeError: llama.cpp says that it failed.
    """
    import llama_cpp

    be_silent()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(FileType[mix.upper()]), threads
    if code := llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize: {code}")


def be_silent() -> None:
    """Let llama.cpp log nothing from here on."""
    import llama_cpp

    llama_cpp.llama_log_set(_silent(), ctypes.c_void_p(0))


@cache
def _silent() -> object:
    """A log callback that says nothing; llama.cpp keeps no reference, the cache does."""
    import llama_cpp

    @llama_cpp.llama_log_callback
    def ignore(level: int, text: bytes, data: object) -> None:
        del level, text, data

    return ignore


def main(source: str, target: str, mix: str, threads: str, *options: str) -> None:
    """One call as a command; ``sync`` forces the file to disk."""
    llama_quantize(Path(source), Path(target), mix, int(threads))
    if "sync" in options:
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
