"""Finds the data files that a path means: a file, a folder with everything below it, or a glob.

All files of one source have one format. Names that begin with a dot or an underscore (`_SUCCESS`, `.cache`), the notes
of Hugging Face's tools and files of no known format are passed over. Files come in natural order: `part-2` before
`part-10`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from entrenar_core.data.broken import content_of
from entrenar_core.data.formats.kinds import KNOWN, Format, advice_for_suffix, format_of
from entrenar_core.errors import DataError

MAX_LISTED = 8
"""Files that an error shows."""

_NOTES = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
"""Files that `datasets.save_to_disk` and the Hugging Face Hub write beside the data."""

_SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval)(?![a-z])", re.IGNORECASE)
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}


@dataclass(frozen=True)
class FoundFiles:
    """At least one file, all of `format`."""

    files: tuple[Path, ...]
    format: Format


def find_files(path: str) -> FoundFiles:
    """The data files that `path` means.

    Raises:
        DataError: nothing is there, nothing there is data, or the files have several formats or splits.
    """
    if not path:
        raise DataError("the path of the data is empty", hint="name a file, a folder or a glob such as data/*.parquet")
    if re.match(r"[a-z0-9+]{2,}://", path):
        raise DataError("data are read from files, not from the network", where=path, hint="download it first")
    place = _expanded(path)
    try:
        if place.is_dir():
            return _in_folder(place)
        if place.exists():
            return _single(place)
        if glob.has_magic(path):
            return _matching(place)
    except OSError as error:
        raise DataError(f"the path cannot be read: {error.strerror or error}", where=path) from error
    raise DataError("the file does not exist", where=path, hint=_neighbours(place))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0]
        raise DataError(
            f"the home folder that {user} stands for is not known",
            where=path,
            hint=f"write the full path; a file or folder that is really called {user} is ./{user}",
        ) from error


def _single(path: Path) -> FoundFiles:
    if not path.is_file():
        raise DataError("this is not a regular file", where=str(path), hint="write the data into a file first")
    format_ = format_of(path)
    if format_ is not None:
        return FoundFiles((path,), format_)
    content = content_of(path)
    if content is not None and content.format is not None and not path.suffix:
        raise DataError(f"the name has no ending; the file holds {content.what}", where=str(path), hint=content.hint)
    ending = f"files that end in {path.suffix} cannot be read" if path.suffix else "the name has no ending"
    raise DataError(f"{ending} as data", where=str(path), hint=advice_for_suffix(path))


def _in_folder(folder: Path) -> FoundFiles:
    if (folder / "dataset_dict.json").is_file():
        splits = [found.name for found in sorted(folder.iterdir()) if found.is_dir() and not _is_hidden(found.name)]
        raise DataError(
            f"this folder was saved by datasets.save_to_disk and holds several splits: {', '.join(splits)}",
            where=str(folder),
            hint=f"name one of them, such as {folder / ('train' if 'train' in splits or not splits else splits[0])}",
        )
    files = sorted(_data_files_below(folder), key=lambda file: _natural(str(file.relative_to(folder))))
    if not files:
        raise DataError("there are no data files in this folder", where=str(folder), hint=_others_in(folder))
    found = _of_one_format(files, str(folder))
    _check_splits(folder, files)
    return found


def _matching(pattern: Path) -> FoundFiles:
    matches = [Path(match) for match in glob.glob(str(pattern), recursive=True)]
    files = sorted(
        _once(match for match in matches if match.is_file() and _is_data(match)), key=lambda f: _natural(str(f))
    )
    if files:
        return _of_one_format(files, str(pattern))
    what = "no file matches the pattern" if not matches else "no data file matches the pattern"
    raise DataError(what, where=str(pattern), hint=_near_pattern(pattern, matches))


def _once(files: Iterable[Path]) -> Iterable[Path]:
    """Each file under its shortest path only: `**` follows links, even one that leads back to its own folder."""
    by_place: dict[Path, Path] = {}
    for file in sorted(files, key=lambda file: (len(file.parts), str(file))):
        by_place.setdefault(file.resolve(), file)
    return by_place.values()


def _data_files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        yield from (path for name in names if _is_data(path := Path(root) / name))


def _is_data(path: Path) -> bool:
    return not _is_hidden(path.name) and path.name not in _NOTES and format_of(path) is not None


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(digits), "") if digits else (-1, text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]


def _of_one_format(files: list[Path], where: str) -> FoundFiles:
    by_format: dict[Format, list[Path]] = {}
    for file in files:
        by_format.setdefault(_format(file), []).append(file)
    if len(by_format) > 1:
        counts = "; ".join(f"{format_}: {_listed(found, 2)}" for format_, found in by_format.items())
        raise DataError(
            f"the files have several formats: {counts}",
            where=where,
            hint=f"choose one with a glob, such as {files[0].parent / ('*' + files[0].suffix)}",
        )
    return FoundFiles(tuple(files), _format(files[0]))


def _format(file: Path) -> Format:
    format_ = format_of(file)
    if format_ is None:
        raise AssertionError(f"{file} was taken for data")
    return format_


def _check_splits(folder: Path, files: Iterable[Path]) -> None:
    """A folder with train and test files is not one data set: to train on both would spoil every evaluation."""
    splits: dict[str, Path] = {}
    for file in files:
        for part in file.relative_to(folder).parts:
            match = _SPLIT.match(part)
            if match:
                name = match[1].lower()
                splits.setdefault(_SPLIT_NAMES.get(name, name), file)
                break
    if len(splits) > 1:
        shown = ", ".join(f"{name} ({file.relative_to(folder)})" for name, file in sorted(splits.items()))
        example = splits.get("train", next(iter(splits.values())))
        raise DataError(
            f"this folder holds several splits: {shown}",
            where=str(folder),
            hint=f"name the files of one split, such as {_glob_of_split(folder, example)}",
        )


def _glob_of_split(folder: Path, example: Path) -> str:
    first = example.relative_to(folder).parts[0]
    if folder / first != example:
        return str(folder / first)
    match = _SPLIT.match(first)
    return str(folder / f"{match[0] if match else ''}*{example.suffix}")


def _neighbours(path: Path) -> str:
    """A did-you-mean for a name, or what there is instead."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = [found.name for found in _listing(folder) if found.is_dir() or _is_data(found)]
    close = get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {folder / close[0]}?"
    return f"data files in {folder}: {_named(names)}" if names else f"there are no data files in {folder}"


def _near_pattern(pattern: Path, matches: list[Path]) -> str:
    literal = _folder_with_bracket(pattern)
    if literal is not None:
        escaped = literal.replace("[", "[[]") + str(pattern)[len(literal) :]
        return f"there is a folder {literal}; write [[] for [ in a pattern: {escaped}"
    if matches:
        return f"it matches {_listed(sorted(matches))}; known formats are {KNOWN}"
    fixed = next(parent for parent in pattern.parents if not glob.has_magic(str(parent)))
    if not fixed.is_dir():
        return f"the folder {fixed} does not exist"
    files = sorted(_data_files_below(fixed))[: MAX_LISTED + 1]
    if not files:
        return f"there are no data files in {fixed}"
    return f"data files in {fixed}: {_named([str(file.relative_to(fixed)) for file in files])}"


def _folder_with_bracket(pattern: Path) -> str | None:
    return next((str(parent) for parent in pattern.parents if "[" in str(parent) and parent.is_dir()), None)


def _others_in(folder: Path) -> str:
    names = [found.name for found in _listing(folder)]
    holds = f"it holds {_named(names)}" if names else "it is empty"
    return f"{holds}; known formats are {KNOWN}"


def _listing(folder: Path) -> list[Path]:
    return sorted((found for found in folder.iterdir() if not _is_hidden(found.name)), key=lambda f: _natural(f.name))


def _listed(paths: list[Path], most: int = MAX_LISTED) -> str:
    return _named([path.name for path in paths], most)


def _named(names: list[str], most: int = MAX_LISTED) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
