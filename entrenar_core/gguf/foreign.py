"""Says what a file is that does not begin with the GGUF magic, and what its owner can do about it."""

from __future__ import annotations

from entrenar_core.errors import FormatError

MAGIC = b"GGUF"
SNIFF_BYTES = 64

_CONVERT = "convert the model with llama.cpp's convert_hf_to_gguf.py"
_KNOWN_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"lmgg", "an old GGML file (2023, unversioned)", f"{_CONVERT} from the original weights"),
    (b"fmgg", "an old GGML file (GGMF)", f"{_CONVERT} from the original weights"),
    (b"tjgg", "an old GGML file (GGJT)", f"{_CONVERT} from the original weights"),
    (b"algg", "an old GGML LoRA file (GGLA)", "export the adapter to GGUF again"),
    (b"GGML", "an old GGML file", f"{_CONVERT} from the original weights"),
    (b"FUGG", "a GGUF file with its magic reversed", "write the file again with a current converter"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)", _CONVERT),
    (b"\x80\x02", "a pickle (an old PyTorch checkpoint?), which is never opened", _CONVERT),
    (b"\x80\x04", "a pickle, which is never opened", _CONVERT),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (
        b"PAR1",
        "a parquet file",
        "a GGUF model is needed here; in the YAML of a run, data belong under data.train",
    ),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "fetch the file with: git lfs pull"),
    (b"<!DOCTYPE", "an HTML page (a failed download?)", "download the file again"),
    (b"<html", "an HTML page (a failed download?)", "download the file again"),
)


def foreign_file_error(path: str, start: bytes) -> FormatError:
    """The error for a file that begins with `start` (SNIFF_BYTES or fewer) instead of ``GGUF``."""
    for magic, what, hint in _KNOWN_STARTS:
        if start.startswith(magic):
            return FormatError(f"this is {what}, not a GGUF file", where=path, hint=hint)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return FormatError("this is a safetensors file, not a GGUF file", where=path, hint=_CONVERT)
    if len(start) < len(MAGIC):
        return FormatError(
            f"the file has {len(start)} bytes and ends before the GGUF header",
            where=path,
            hint="copy or download it again",
        )
    return FormatError(
        f"not a GGUF file: it begins with {start[:4]!r} instead of {MAGIC!r}",
        where=path,
        hint="check the path: a GGUF file is needed here",
    )
