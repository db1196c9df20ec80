"""What a person may have meant by an unknown key or value: a near name, a key of another section, a key of another
tool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from entrenar_core.config.base import Path
from entrenar_core.config.foreign_keys import COLUMN_ROLES, EXPLAINED, NAMES_IN_A_MERGE, RENAMED, SPECIAL_VALUES

_BASE_OF_A_MERGE: Path = ("merge", "base")
"""Only files of `entrenar merge` have this key."""

_SECOND_DATA: Path = ("quantize", "calibration")
"""Has keys of `data` once more, which are meant less often."""


def hint_for_key(path: Path, known: Iterable[Path]) -> str:
    """What to do about the unknown key `path`; `known` are all keys of the schema."""
    known = list(known)
    section, name = path[:-1], path[-1].lower().replace("-", "_").strip()
    siblings = [key[-1] for key in known if key[:-1] == section]
    if name in siblings:
        return f"did you mean {_dotted(section, name)}?"
    if name in COLUMN_ROLES and section[:1] == ("data",):
        return _column_hint(section, name)
    renamed = _renamed(name, section, known) or _in_the_section(name, section, known)
    if renamed:
        return renamed
    if name in EXPLAINED:
        return EXPLAINED[name]
    return _elsewhere(name, known) or _closest(name, section, siblings, known)


def _renamed(name: str, section: Path, known: Sequence[Path]) -> str | None:
    """What the key of another tool is called here, if this file can have it."""
    for names in (NAMES_IN_A_MERGE, RENAMED) if _BASE_OF_A_MERGE in known else (RENAMED,):
        if name in names and names[name] != _dotted(section) and tuple(names[name].split(".")) in known:
            return f"use {names[name]}"
    return None


def _in_the_section(name: str, section: Path, known: Sequence[Path]) -> str | None:
    """The same key further up or down in the section `merge`, which other sections explain away."""
    found = [key for key in known if key[-1] == name and key[:1] == section[:1] == ("merge",)]
    return f"use {_dotted(min(found, key=len))}" if found else None


def _elsewhere(name: str, known: Sequence[Path]) -> str | None:
    """The same key in other sections, or the column that it names."""
    elsewhere = [key for key in known if key[-1] == name]
    elsewhere = [key for key in elsewhere if key[:-1] != _SECOND_DATA] or elsewhere
    if elsewhere:
        return f"use {' or '.join([_dotted(key) for key in elsewhere[:3]])}"
    return _column_hint(("data",), name) if name in COLUMN_ROLES else None


def _column_hint(section: Path, name: str) -> str:
    return f"use {_dotted(section)}.columns: {{{COLUMN_ROLES[name]}: COLUMN}}"


def _closest(name: str, section: Path, siblings: Sequence[str], known: Sequence[Path]) -> str:
    near = get_close_matches(name, siblings, n=1, cutoff=0.7)
    if near:
        return f"did you mean {_dotted(section, near[0])}?"
    near = get_close_matches(name, [key[-1] for key in known], n=1, cutoff=0.75)
    if near:
        return f"did you mean {_dotted(next(key for key in known if key[-1] == near[0]))}?"
    names = [one for one in RENAMED if tuple(RENAMED[one].split(".")) in known]
    near = get_close_matches(name, names, n=1, cutoff=0.8)
    if near:
        return f"use {RENAMED[near[0]]}"
    place = f"{_dotted(section)} has" if section else "there are"
    return f"{place} {', '.join(siblings)}"


def hint_for_value(path: Path, value: object, allowed: Sequence[str]) -> str | None:
    """What to do about a value that is none of `allowed` words, or has another type than it needs."""
    if not isinstance(value, str):
        return None
    word = value.strip().lower()
    special = SPECIAL_VALUES.get((_dotted(path), word))
    if special:
        return special
    near = near_word(word, allowed)
    return f"did you mean {near}?" if near else None


def near_word(word: str, allowed: Sequence[str]) -> str | None:
    """The allowed word that is spelled like `word`, or is the longest one inside it (adamw in paged_adamw_8bit)."""
    near = get_close_matches(word, allowed, n=1, cutoff=0.6)
    near = near or [name for name in sorted(allowed, key=len, reverse=True) if name in word][:1]
    return near[0] if near else None


def _dotted(path: Sequence[str], *more: str) -> str:
    return ".".join((*path, *more))
