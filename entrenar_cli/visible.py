"""Text from files, made harmless: what a terminal would obey, hide or reorder is shown as an escape instead.

Names, templates and samples come from strangers. A control character could move the cursor or set the title, a
bidirectional mark could show text in another order, and half a surrogate could not be printed at all.
"""

from __future__ import annotations

import re
import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\x1b"}
_HARMLESS_FORMATS = {"\u200c", "\u200d"}
"""Joiners, which belong into the words of some scripts and into emoji; they have no power over the terminal."""

CUT = "…"


def visible(text: str) -> str:
    """`text` on one line, with every control character, line break and surrogate written as an escape."""
    return text if text.isprintable() else "".join(_shown(character) for character in text)


def shortened(text: str, most: int) -> str:
    """`visible` text of at most `most` characters, cut at its end."""
    shown = visible(text[: 2 * most])
    return shown if len(shown) <= most and len(text) <= 2 * most else shown[: most - 1] + CUT


def escaped_json(document: str) -> str:
    """JSON text in which the characters that `visible` escapes are ``\\uXXXX``; its meaning stays the same."""
    return re.sub(r"[^\n -~]", lambda match: _json_escape(match[0]), document)


def _json_escape(character: str) -> str:
    if _is_harmless(character):
        return character
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _shown(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if _is_harmless(character):
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_harmless(character: str) -> bool:
    is_shown = unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029"
    return is_shown or character in _HARMLESS_FORMATS
