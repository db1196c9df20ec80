"""Text from files never moves the cursor, changes colours or reorders what is shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_cli.visible import escaped_json, shortened, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Surrogates included."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("日本語 é 🙂", "日本語 é 🙂"),
        ("two\nlines\tand\r", "two\\nlines\\tand\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("bell\x07", "bell\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eright to left", "\\u202eright to left"),
        ("a\u2028b", "a\\u2028b"),
        ("not utf-8: \udcff", "not utf-8: \\xff"),
        ("half \ud800", "half \\ud800"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("no\u00a0break", "no\u00a0break"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_only_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.property
@given(ANY_TEXT)
def test_nothing_that_is_shown_is_a_control_character(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(one)[0] != "C" or one in "\u200c\u200d" for one in shown)
    shown.encode("utf-8")  # no surrogates


@pytest.mark.property
@given(ANY_TEXT, st.integers(1, 40))
def test_a_shortened_text_has_its_length(text: str, most: int) -> None:
    assert len(shortened(text, most)) <= most


def test_a_text_that_fits_is_not_cut() -> None:
    assert shortened("exactly", 7) == "exactly"
    assert shortened("exactly!", 7) == "exactl…"


@pytest.mark.property
@given(ANY_TEXT)
def test_escaped_json_means_the_same_and_can_be_printed(text: str) -> None:
    document = escaped_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(document) == json.loads(json.dumps({"text": text}))
    assert document.encode("utf-8")
    assert all(unicodedata.category(one)[0] != "C" or one in "\u200c\u200d" for one in document)
