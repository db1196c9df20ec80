"""Says what a file is when it is not what its name promises, from its first bytes.

The usual traps of a newcomer each get their own advice: a git-lfs pointer, a web page saved in place of the file, an
archive, a spreadsheet, a database, a file of another data format. What Arrow says about a broken file is kept as the
reason, below a sentence of our own.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from entrenar_core.data.formats.kinds import TEXT_FORMATS, Format, is_compressed
from entrenar_core.errors import DataError

HEAD_BYTES = 512

ARROW_ERRORS = (pa.ArrowException, OSError, ValueError)
"""All that Arrow raises for a file it cannot read."""

_NOT_COMPRESSED = ("incorrect header", "unknown frame", "no magic header")
"""What gzip, zstd and bzip2 say."""

_REASONS = (
    ("crc checksum", "the file is damaged: the checksum of a page does not match"),
    ("thrift", "the file is damaged: its footer cannot be decoded"),
    ("expected to be able to read", "the file is truncated"),
    ("truncated compressed stream", "the compressed file is truncated"),
)
"""What Arrow says, in lower case, and what it means."""

SHOWN_SIGNS = 60
"""Signs of a line or value that a message shows."""

_AGAIN = "copy or download it again"
_UNPACK = "unpack it, and name the file or folder inside"
_AS_CSV = "save the sheet as CSV (UTF-8)"


@dataclass(frozen=True)
class Content:
    """What a file holds. `format`: the data format that it is after all, whatever its name says."""

    what: str
    hint: str
    format: Format | None = None


_SIGNATURES = (
    (b"PAR1", Content("a parquet file", "rename it to end in .parquet", Format.PARQUET)),
    (b"PARE", Content("an encrypted parquet file", "decrypt it first", Format.PARQUET)),
    (b"ARROW1", Content("an Arrow file", "rename it to end in .arrow", Format.ARROW)),
    (b"\xff\xff\xff\xff", Content("an Arrow stream", "rename it to end in .arrow", Format.ARROW)),
    (b"FEA1", Content("a Feather version 1 file", "write it again as parquet, or with feather version=2")),
    (
        b"version https://git-lfs",
        Content(
            "a git-lfs pointer: a few lines that stand for the data",
            "run `git lfs install && git lfs pull` in its repository, or download the file itself",
        ),
    ),
    (b"\x1f\x8b", Content("gzip-compressed", "if it is JSON lines or CSV, name it .jsonl.gz or .csv.gz")),
    (b"\x28\xb5\x2f\xfd", Content("zstd-compressed", "if it is JSON lines or CSV, name it .jsonl.zst or .csv.zst")),
    (b"BZh", Content("bzip2-compressed", "if it is JSON lines or CSV, name it .jsonl.bz2 or .csv.bz2")),
    (b"7z\xbc\xaf\x27\x1c", Content("a 7-Zip archive", _UNPACK)),
    (b"Rar!", Content("a RAR archive", _UNPACK)),
    (b"SQLite format 3\0", Content("an SQLite database", "export the table as CSV")),
    (b"\xd0\xcf\x11\xe0", Content("an old Excel or Word file", _AS_CSV)),
    (b"%PDF", Content("a PDF document", "extract its text, and store one JSON object per line in a .jsonl file")),
    (b"GGUF", Content("a GGUF model, not data", "it belongs to model.path")),
    (b"\x89HDF", Content("an HDF5 file", "write the data as parquet")),
    (b"\x93NUMPY", Content("a NumPy array", "write the data as parquet")),
    (b"\x80\x04", Content("a Python pickle, which is never opened: it can run code", "write the data as parquet")),
    (b"\x80\x05", Content("a Python pickle, which is never opened: it can run code", "write the data as parquet")),
    (b"\xff\xfe", Content("text in UTF-16", "save it as UTF-8 (PowerShell: `Out-File -Encoding utf8`)")),
    (b"\xfe\xff", Content("text in UTF-16", "save it as UTF-8 (PowerShell: `Out-File -Encoding utf8`)")),
)

_WEB_PAGE = Content(
    "a web page (HTML): the download saved a page in place of the file",
    "use the link that downloads the file itself; a site may ask for a login first",
)
_BINARY = Content("binary data, not text", _AGAIN)
_JSON = Content("JSON text", "name it .jsonl if it holds one object per line, .json if it is an array", Format.JSON)


def shown(text: str) -> str:
    """The beginning of a text for a message, on one line and without what a terminal would act on."""
    line = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text[: 4 * SHOWN_SIGNS].split()))
    return line if len(line) <= SHOWN_SIGNS else line[: SHOWN_SIGNS - 1] + "…"


def content_of(path: Path) -> Content | None:
    """What the first bytes of a file are known for; None for text without a mark and for bytes that mean nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    for mark, content in _SIGNATURES:
        if head.startswith(mark):
            return content
    if head[257:262] == b"ustar":
        return Content("a tar archive", _UNPACK)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return _WEB_PAGE
    if b"\0" in head:
        return _BINARY
    return _JSON if start.startswith((b"{", b"[")) else None


def check_content(path: Path, format_: Format) -> None:
    """Refuse a file whose first bytes are not those of its format.

    Raises:
        DataError: the file is empty, or is something else than its name says.
        OSError: the file cannot be read.
    """
    where = str(path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", where=where, hint=_AGAIN)
    if is_compressed(path):
        return
    content = content_of(path)
    if format_ in TEXT_FORMATS:
        if content is not None and content is not _JSON:
            raise DataError(f"this is not a {format_} file, but {content.what}", where=where, hint=content.hint)
    elif content is None or content.format is not format_:
        what = content.what if content is not None else "something else: its first bytes are not those of the format"
        hint = content.hint if content is not None else _AGAIN
        raise DataError(f"this is not {_with_article(format_)} file, but {what}", where=where, hint=hint)


def _with_article(format_: Format) -> str:
    return f"an {format_}" if format_ is Format.ARROW else f"a {format_}"


def _zipped(path: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return Content("a zip archive, and a broken one", _AGAIN)
    if any(name.startswith("xl/") for name in names):
        return Content("an Excel workbook", _AS_CSV)
    if any(name.startswith("word/") for name in names):
        return Content("a Word document", "store the texts as one JSON object per line in a .jsonl file")
    if any(name.endswith("/data.pkl") for name in names):
        return Content("a PyTorch checkpoint, not data", _AGAIN)
    return Content("a zip archive", _UNPACK)


@contextmanager
def explained(path: Path, format_: Format) -> Iterator[None]:
    """Turn whatever Arrow or the system raises while a file is read into one DataError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError("the file holds names that are not UTF-8", where=str(path), hint=_AGAIN) from error
    except ARROW_ERRORS as error:
        raise unreadable(path, format_, error) from error


def unreadable(path: Path, format_: Format, error: Exception) -> DataError:
    """The error for a file that cannot be opened or decoded."""
    where = str(path)
    if isinstance(error, PermissionError):
        return DataError(
            "you are not allowed to read this file",
            where=where,
            hint=f"check its permissions: chmod u+r {path}",
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lowered = reason.lower()
    if is_compressed(path) and any(sign in lowered for sign in _NOT_COMPRESSED):
        return DataError(
            f"the file is not compressed with {path.suffix[1:]}, though its name says so",
            where=where,
            hint=f"rename it to {path.stem} if it is plain text, else {_AGAIN}",
        )
    known = next((message for sign, message in _REASONS if sign in lowered), None)
    return DataError(known or f"the {format_} file cannot be read: {reason}", where=where, hint=_AGAIN)
