"""Filters and functions of chat templates: those of transformers, and Jinja's own made to follow the origin of text.

Import this module only where a template is compiled: it brings Jinja with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import date
from functools import wraps
from typing import Any

import jinja2
from jinja2.filters import make_attrgetter
from jinja2.utils import Namespace

from entrenar_core.tokenizer.chat_marks import TOOLS, Marked, all_data, fill, has_data, join, origin_of, without_data
from entrenar_core.tokenizer.template_limits import LONGEST_DATE_PATTERN, Budget, check_pattern, check_widths, size_of

Filter = Callable[..., Any]

# Filters that hand on what they were given, or go through methods that `Marked` has, and so keep origins by themselves.
_FOLLOWED = frozenset(
    {"attr", "d", "default", "first", "last", "list", "lower", "map", "max", "min", "string", "tojson", "trim", "upper"}
)
# Random, or of no use to a chat and hard to bound.
_LEFT_OUT = ("pprint", "random", "striptags", "urlize", "wordcount", "wordwrap", "xmlattr")


def raise_exception(message: object) -> None:
    """What templates call to refuse a conversation; texts of the data in the message are left out of it."""
    raise jinja2.TemplateError(without_data(str(message)))


class FixedDate:
    """What `strftime_now` tells: midnight of one date, so that the same data give the same tokens on every day.

    Attributes:
        was_asked_for: set by a template; whoever renders it takes it back before.
    """

    def __init__(self, today: date) -> None:
        self._today = today
        self.was_asked_for = False

    def strftime_now(self, pattern: str) -> str:
        self.was_asked_for = True
        if len(pattern) > LONGEST_DATE_PATTERN:
            raise jinja2.exceptions.SecurityError(f"a date cannot have a pattern of {len(pattern)} characters")
        check_pattern(pattern)
        return text_of(self._today.strftime(pattern), pattern)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it; data as a whole when there is a text of the data in it."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return text_of(text, value)


def text_of(text: str, *sources: object) -> str:
    """`text`, made from `sources`, as data if they are data."""
    origin = origin_of(sources)
    return text if origin is None else all_data(text, origin)


def as_text(value: object) -> str:
    """What `{{ value }}` writes.

    A list or mapping of a message would be written as Python spells it, which no model was trained on: TypeError.
    """
    if isinstance(value, str):
        return value
    origin = origin_of(value)
    if origin is None:
        return str(value)
    if origin != TOOLS:
        raise TypeError(f"the chat template cannot write a {'mapping' if isinstance(value, dict) else 'list'}")
    return all_data(str(value), origin)


def concatenate(values: Iterable[object]) -> str:
    """The texts of all values, one after the other."""
    parts = [as_text(value) for value in values]
    return join(parts) if any(isinstance(part, Marked) for part in parts) else "".join(parts)


def percent(pattern: str, values: Any) -> str:
    """`pattern % values` with the origins of all characters."""
    if isinstance(pattern, Marked):
        return pattern % values
    return fill(lambda given: str.__mod__(pattern, given), values)


class TemplateNamespace(Namespace):
    """`namespace(...)` without a way to names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __repr__(self) -> str:
        return "<Namespace>"  # what it holds may hold it again

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the name {name!r}")


def following_filters(filters: dict[str, Filter], budget: Budget) -> dict[str, Filter]:
    """Jinja's filters, each made to keep the origin of text and to charge what it builds to the budget."""
    chosen = {name: original for name, original in filters.items() if name not in _LEFT_OUT}
    chosen |= {"tojson": to_json, "join": _join, "replace": _replace, "format": _format, "sum": _sum}
    return {name: _following(name, original, budget) for name, original in chosen.items()}


def _following(name: str, original: Filter, budget: Budget) -> Filter:
    keeps = name in _FOLLOWED or original in (_join, _replace, _format)
    first = 1 if hasattr(original, "jinja_pass_arg") else 0  # Jinja gives the environment or the context first

    @wraps(original)
    def following(*args: Any, **kwargs: Any) -> Any:
        options = (*args[first + 1 :], *kwargs.values())
        check_widths(*options)
        budget.look_at_the_clock()
        if name == "tojson":
            budget.reserve_json(args[first], *_json_options(*args[first + 1 :], **kwargs))
        args = _prepared(name, args, first, options, budget)
        result = budget.charge_nested(original(*args, **kwargs))
        return result if keeps or not isinstance(result, str) else text_of(result, args, kwargs)

    return following


def _prepared(
    name: str, args: tuple[Any, ...], first: int, options: tuple[Any, ...], budget: Budget
) -> tuple[Any, ...]:
    """The arguments, after what the filter will build from them was counted."""
    if name == "join":
        values = list(args[first])
        budget.reserve_join(as_text(options[0]) if options else "", values)
        return (*args[:first], values, *args[first + 1 :])
    if name == "replace" and len(options) > 1:
        budget.reserve_replace(as_text(args[first]), as_text(options[0]), as_text(options[1]))
    elif name == "format":
        budget.reserve_pattern(as_text(args[first]), *options)
    elif name == "indent":
        width = max([4, *(option for option in options if isinstance(option, int)), *map(size_of, options)])
        budget.reserve(as_text(args[first]).count("\n") * width)
    return args


def _json_options(
    ensure_ascii: object = False, indent: object = None, separators: object = None, sort_keys: object = False
) -> tuple[object, object]:
    return indent, separators


@jinja2.pass_environment
def _sum(environment: jinja2.Environment, values: Iterable[Any], attribute: Any = None) -> Any:
    """A sum of numbers: Jinja's takes a start, with which it would join lists."""
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return sum(values)


@jinja2.pass_environment
def _join(environment: jinja2.Environment, values: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return join(map(as_text, values), as_text(d))


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = as_text(text)
    if has_data(new) and not isinstance(text, Marked):
        text = Marked(text, ())
    return text.replace(as_text(old), as_text(new), -1 if count is None else count)


def _format(pattern: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise jinja2.exceptions.FilterArgumentError("positional and keyword arguments at the same time")
    return percent(as_text(pattern), kwargs or args)
