"""Text that knows which of its characters came from the data and from which message.

A chat template mixes its own text with texts of the data. `Marked` is a str that carries the origins of its characters
through what templates do with text (joining, cutting, trimming, replacing), so that afterwards special tokens are
looked for in the template's text only, and the texts of the assistant are known. Comparisons, searches and lengths are
those of the plain text: a template cannot tell the difference. Where the origin of single characters cannot be
followed, the whole result counts as data, which is the safe side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

Span = tuple[int, int, int]
"""Begin, end, origin of a stretch of data."""

SEVERAL_MESSAGES = -1
"""Origin of text that was made from the data of several messages in a way that could not be followed."""
TOOLS = -2
"""Origin of the tools that a conversation offers."""

_PLACEHOLDER = re.compile("\ufdd0([0-9]+)\ufdd1")


class Marked(str):
    """A text with the spans of it that are data, in order and without overlap."""

    __slots__ = ("_spans",)
    _spans: tuple[Span, ...]

    def __new__(cls, text: str, spans: Iterable[Span]) -> Marked:
        self = str.__new__(cls, text)
        self._spans = tuple(spans)
        return self

    def __str__(self) -> Marked:
        return self

    def __add__(self, other: str) -> Marked:
        return join([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Marked:
        return join([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Marked:
        return join([self] * int(times))

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> Marked:
        return self._all_of(str.__mod__(self, values), values)

    def __rmod__(self, template: str) -> str:
        return fill(lambda value: str.__mod__(template, value), self)

    def __getitem__(self, key: SupportsIndex | slice) -> Marked:
        if not isinstance(key, slice):
            index = range(len(self))[key]
            return self._cut(index, index + 1)
        start, stop, step = key.indices(len(self))
        if step == 1:
            return self._cut(start, max(start, stop))
        return join(self._cut(index, index + 1) for index in range(start, stop, step))

    def __iter__(self) -> Iterator[str]:
        return (self._cut(index, index + 1) for index in range(len(self)))

    def strip(self, chars: str | None = None, /) -> Marked:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Marked:
        return self._cut(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> Marked:
        return self._cut(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> Marked:
        return self._cut(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> Marked:
        return self._cut(0, len(self) - (len(suffix) if self.endswith(suffix) else 0))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._locate(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._locate(str.splitlines(self, True), "")
        return lines if keepends else [line[: len(str.splitlines(line)[0])] for line in lines]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, after = self._locate(str.partition(self, sep), "")
        return before, middle, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, after = self._locate(str.rpartition(self, sep), "")
        return before, middle, after

    def join(self, parts: Iterable[str], /) -> Marked:
        return join(parts, self)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Marked:
        if not old:
            return self._all_of(str.replace(self, old, new, count), new)
        return join(self.split(old, count), new)

    def lower(self) -> Marked:
        return self._with_text(str.lower(self))

    def upper(self) -> Marked:
        return self._with_text(str.upper(self))

    def _with_text(self, changed: str) -> Marked:
        return Marked(changed, self._spans) if len(changed) == len(self) else self._all_of(changed)

    def _all_of(self, text: str, *others: object) -> Marked:
        return all_data(text, origin_of((self, *others)))

    def _cut(self, start: int, end: int) -> Marked:
        spans = (
            (max(begin, start) - start, min(stop, end) - start, origin)
            for begin, stop, origin in self._spans
            if max(begin, start) < min(stop, end)
        )
        return Marked(str.__getitem__(self, slice(start, end)), spans)

    def _locate(self, parts: Sequence[str], separator: str | None) -> list[str]:
        """The parts, which lie in this text one after the other, with their origins; separator None: white space."""
        found: list[str] = []
        position = 0
        for part in parts:
            start = str.index(self, part, position) if separator is None else position
            found.append(self._cut(start, start + len(part)))
            position = start + len(part) + len(separator or "")
        return found


def _counts_as_data(name: str) -> Callable[..., Marked]:
    original = getattr(str, name)

    def method(self: Marked, *args: Any, **kwargs: Any) -> Marked:
        return all_data(original(self, *args, **kwargs), origin_of((self, args, kwargs)))

    method.__name__ = name
    return method


def _refused(name: str) -> Callable[..., Any]:
    def method(self: Marked, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{name}() of a text of the data is not available to chat templates")

    method.__name__ = name
    return method


for _name in ("capitalize", "casefold", "center", "expandtabs", "ljust", "rjust", "swapcase", "title", "zfill"):
    setattr(Marked, _name, _counts_as_data(_name))
for _name in ("encode", "format", "format_map", "translate"):
    setattr(Marked, _name, _refused(_name))


def plain(text: str) -> str:
    """The same text without origins."""
    return str.__str__(text)


def all_data(text: str, origin: int | None) -> Marked:
    """`text` as data as a whole; without a known origin it belongs to no message."""
    return Marked(plain(text), [(0, len(text), SEVERAL_MESSAGES if origin is None else origin)] if text else [])


def without_data(text: str) -> str:
    """`text` with an ellipsis in place of each stretch of data."""
    parts: list[str] = []
    position = 0
    for begin, end, _ in spans_of(text):
        parts += [plain(text)[position:begin], "…"]
        position = end
    return "".join([*parts, plain(text)[position:]])


def spans_of(text: str) -> tuple[Span, ...]:
    """The stretches of data in `text`, neighbours of one origin joined."""
    if not isinstance(text, Marked):
        return ()
    merged: list[Span] = []
    for begin, end, origin in text._spans:
        if merged and merged[-1][1:] == (begin, origin):
            merged[-1] = (merged[-1][0], end, origin)
        else:
            merged.append((begin, end, origin))
    return tuple(merged)


def join(parts: Iterable[str], separator: str = "") -> Marked:
    """`separator.join(parts)` with the origins of all characters."""
    parts = list(parts)
    between = separator._spans if isinstance(separator, Marked) else ()
    spans: list[Span] = []
    position = 0
    for index, part in enumerate(parts):
        if index:
            spans += [(position + begin, position + end, origin) for begin, end, origin in between]
            position += len(separator)
        if isinstance(part, Marked):
            spans += [(position + begin, position + end, origin) for begin, end, origin in part._spans]
        position += len(part)
    return Marked(plain(separator).join(map(plain, parts)), spans)


def has_data(value: object) -> bool:
    """Whether a value, or anything in a list or mapping, is text of the data."""
    return origin_of(value) is not None


def origin_of(value: object) -> int | None:
    """The one message that the data in `value` came from; SEVERAL_MESSAGES where there are more; None without data."""
    origins = set(_origins(value))
    return origins.pop() if len(origins) == 1 else SEVERAL_MESSAGES if origins else None


def _origins(value: object) -> Iterator[int]:
    if isinstance(value, Marked):
        yield from (origin for _, _, origin in value._spans)
    elif isinstance(value, dict):
        for item in value.items():
            yield from _origins(item)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _origins(entry)


def mark(value: Any, origin: int) -> Any:
    """A copy of `value` (text, numbers, lists, mappings) with all its texts marked, keys included."""
    if isinstance(value, str):
        return all_data(value, origin)
    if isinstance(value, Mapping):
        return {mark(key, origin): mark(item, origin) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mark(item, origin) for item in value]
    return value


def fill(operation: Callable[[Any], str], values: Any) -> str:
    """`operation(values)`, a text in which `values` are put into a pattern, with their origins.

    It is done twice: on the values, and on placeholders that show where each of them went.
    """
    filled = operation(values)
    if not has_data(values):
        return filled
    texts: list[Marked] = []
    parts = _PLACEHOLDER.split(operation(_replaced(values, texts)))
    parts[1::2] = [texts[int(number)] if int(number) < len(texts) else "" for number in parts[1::2]]
    result = join(parts)
    return result if result == filled else all_data(filled, origin_of(values))


def _replaced(value: Any, texts: list[Marked]) -> Any:
    if isinstance(value, Marked):
        texts.append(value)
        return f"\ufdd0{len(texts) - 1}\ufdd1"
    if isinstance(value, dict):
        return {plain(key) if isinstance(key, str) else key: _replaced(item, texts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(item, texts) for item in value)
    return value
