"""llama.cpp's own quantizer, through llama-cpp-python: the peer of `entrenar quantize`."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path


def llama_quantize(source: Path, target: Path, mix: str, threads: int = 2) -> None:
    """Write `source` in a mix such as ``q4_k_m``, as llama-quantize does.

    Raises:
        RuntimeError: llama.cpp says that it failed.
    """
    import llama_cpp

    from entrenar_core.quant.mixes import file_type

    llama_cpp.llama_log_set(_silent(), ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    kind = file_type(mix)
    if kind is None:
        raise RuntimeError(f"llama.cpp has no type {mix}")
    params.ftype, params.nthread = int(kind), threads
    if code := llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize: {code}")


@cache
def _silent() -> object:
    """A log callback that says nothing; llama.cpp keeps no reference, the cache does."""
    import llama_cpp

    @llama_cpp.llama_log_callback
    def ignore(level: int, text: bytes, data: object) -> None:
        del level, text, data

    return ignore


if __name__ == "__main__":
    llama_quantize(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
