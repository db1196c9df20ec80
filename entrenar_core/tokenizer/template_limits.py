"""How much a chat template may do in one rendering: rounds of loops, characters and list entries, widths, seconds.

A template comes with a model and is not trusted. The limits lie far above what real templates do with long
conversations; beyond them the rendering ends with a SecurityError that says which limit it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from jinja2.exceptions import SecurityError

LARGEST_TEXT = 1 << 22
"""Characters of one text, entries of one list."""
MOST_BUILT = 1 << 28
"""Characters of all texts built together; an entry of a list counts for 16."""
MOST_STEPS = 1 << 20
"""Rounds of loops and calls of macros."""
LONGEST_SECONDS = 20.0
"""A rendering still at work then is given up; the other limits come first in all but contrived templates."""
LARGEST_WIDTH = 1 << 12
"""Widths, counts and indents that filters and methods of texts take."""
LARGEST_INTEGER_BITS = 4096
DEEPEST_NESTING = 128
"""Lists and mappings inside each other."""
MOST_NESTED = 1 << 18
"""Texts, lists and mappings in one list, those in several places counted in each."""
LONGEST_SEPARATOR = 16
"""Characters of separators and indents of JSON, of which a text has one for each entry."""
LONGEST_DATE_PATTERN = 256

_ENTRY = 16
_SIZED = (str, bytes, list, tuple, dict)
_NUMBER = re.compile(r"[0-9]+")
_UNBOUNDED_WIDTH = re.compile(r"[0-9]{5,}|%[-+ #0]*[0-9]*(\.)?\*|\{[^{}]*:[^{}]*\{")


class Budget:
    """What is left of the limits while one template is rendered."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """A new rendering begins."""
        self._steps = 0
        self._built = 0
        self._deadline = time.monotonic() + LONGEST_SECONDS

    def count_step(self) -> None:
        """One more round of a loop or call of a macro."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SecurityError(f"the chat template goes through more than {MOST_STEPS} rounds of its loops")
        self.look_at_the_clock()

    def look_at_the_clock(self) -> None:
        if time.monotonic() > self._deadline:
            raise SecurityError(f"the chat template runs for more than {LONGEST_SECONDS:.0f} s")

    def charge(self, value: Any) -> Any:
        """`value`, after its size was counted."""
        if isinstance(value, (str, bytes)):
            self.reserve(len(value))
        elif isinstance(value, (list, tuple)):
            self.reserve(len(value), _ENTRY)
        return value

    def charge_nested(self, value: Any) -> Any:
        """`value`, after its size was counted, and that of all that it holds: an entry in two places counts twice."""
        self.expanded_size(value)
        return self.charge(value)

    def expanded_size(self, *values: Any) -> int:
        """Characters and entries of all values and of what they hold; it is given up where that is too much or deep."""
        self.look_at_the_clock()
        size = 0
        pending: list[tuple[Any, int]] = [(values, 0)]
        walked = entries = 0
        while pending:
            walked += 1
            value, depth = pending.pop()
            size += size_of(value)
            entries += 0 if isinstance(value, (str, bytes)) else len(value)
            self.check_size(size)
            if walked + len(pending) > MOST_NESTED:
                raise SecurityError(f"the chat template nests more than {MOST_NESTED} lists and texts")
            if depth > DEEPEST_NESTING:
                raise SecurityError(f"the chat template nests lists more than {DEEPEST_NESTING} deep")
            pending.extend((entry, depth + 1) for entry in _entries(value))
        self.reserve(walked, _ENTRY)
        self.reserve(entries, 4)  # looking at them takes time too
        return size

    def reserve(self, size: int, weight: int = 1) -> None:
        """Count `size` characters (entries with a `weight`) before they are built."""
        self.look_at_the_clock()
        self.check_size(size)
        self._built += size * weight
        if self._built > MOST_BUILT:
            raise SecurityError(f"the chat template builds texts of more than {MOST_BUILT} characters")

    def check_size(self, size: int) -> None:
        """Refuse a text of `size` characters, or a list of as many entries, if that is too many."""
        if size > LARGEST_TEXT:
            raise SecurityError(f"the chat template builds a text or list of {size} entries")

    def reserve_binop(self, operator: str, left: Any, right: Any) -> None:
        """Count what `left + right`, `left * right` or `left ** right` makes."""
        if isinstance(left, (list, tuple)) or isinstance(right, (list, tuple)):
            self.check_size(self.expanded_size(left, right) * max(_times(left), _times(right), 1))
        if operator == "+":
            self.reserve(size_of(left) + size_of(right), _weight(left))
        elif operator == "*":
            _check_bits(_bits(left) + _bits(right))
            self.reserve(size_of(left) * _times(right) + size_of(right) * _times(left), _weight(left, right))
        else:
            _check_bits(_bits(left) * abs(right) if isinstance(right, int) else 0)

    def reserve_join(self, separator: str | bytes, parts: list[Any]) -> None:
        self.reserve(sum(map(size_of, parts)) + len(separator) * len(parts))

    def reserve_replace(self, text: Any, old: Any, new: Any) -> None:
        places = text.count(old) if old else len(text) + 1
        self.reserve(len(text) + places * size_of(new))

    def reserve_pattern(self, pattern: str, *values: Any) -> None:
        """Count what `%` or `format` makes of a pattern: its widths, and the values in each of its places."""
        check_pattern(pattern)
        places = pattern.count("%") + pattern.count("{")
        widths = sum(map(int, _NUMBER.findall(pattern)))
        self.reserve(len(pattern) + widths + places * self.expanded_size(*values))

    def reserve_json(self, value: Any, indent: object, separators: object) -> None:
        """Count the JSON of a value: each entry may have a line, an indent for each level and separators."""
        options = (indent, *separators) if isinstance(separators, (list, tuple)) else (indent,)
        widths = [option if isinstance(option, int) else size_of(option) for option in options]
        if max(widths) > LONGEST_SEPARATOR:
            raise SecurityError(f"the chat template writes JSON with a separator of {max(widths)} characters")
        self.reserve(self.expanded_size(value))


def check_widths(*values: object) -> None:
    """Refuse a number with which one call could fill the memory."""
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST_WIDTH:
            raise SecurityError(f"the number {value} is too large for a chat template")


def check_pattern(pattern: str) -> None:
    """Refuse a pattern of `%` or `format` that states a large width or takes one from its arguments."""
    if _UNBOUNDED_WIDTH.search(pattern):
        raise SecurityError(f"the chat template formats with a width that is too large or not stated: {pattern[:40]!r}")


def size_of(value: Any) -> int:
    """Characters or entries; 0 for what has neither."""
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 0


def _entries(value: Any) -> Iterable[Any]:
    """What a list or mapping holds that has a size itself."""
    entries = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    return [entry for entry in entries if isinstance(entry, _SIZED)] if isinstance(value, (dict, list, tuple)) else ()


def _weight(*values: Any) -> int:
    return _ENTRY if any(isinstance(value, (list, tuple)) for value in values) else 1


def _times(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_bits(bits: int) -> None:
    if bits > LARGEST_INTEGER_BITS:
        raise SecurityError(f"the chat template computes a number of {bits} bits")
