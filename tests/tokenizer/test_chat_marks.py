"""A marked text is the plain text to whoever reads it, and knows of each character whether it is data.

In these tests data is written in capitals and the template's own text in small letters, so that a result shows by
itself which of its characters have to be marked.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.tokenizer.chat_marks import (
    SEVERAL_MESSAGES,
    Marked,
    all_data,
    fill,
    has_data,
    join,
    mark,
    origin_of,
    plain,
    spans_of,
    without_data,
)

DATA = "AB\n"
TEMPLATE = "ab "


def marked(text: str, origin: int = 7) -> Marked:
    """Every character of DATA in `text` as data."""
    return join(all_data(c, origin) if c in DATA else c for c in text)


def data_in(text: str) -> list[bool]:
    flags = [False] * len(text)
    for begin, end, _ in spans_of(text):
        flags[begin:end] = [True] * (end - begin)
    return flags


def assert_followed(result: str, expected: str) -> None:
    assert plain(result) == expected
    assert data_in(result) == [c in DATA for c in expected], expected


texts = st.text(alphabet=DATA + TEMPLATE, max_size=12)
short = st.text(alphabet=DATA + TEMPLATE, min_size=1, max_size=2)


@pytest.mark.property
@pytest.mark.parametrize("name", ["strip", "lstrip", "rstrip"])
@given(text=texts)
def test_trimming_white_space_keeps_origins(name: str, text: str) -> None:
    assert_followed(getattr(marked(text), name)(), getattr(text, name)())


@pytest.mark.property
@given(left=texts, right=texts, times=st.integers(0, 3))
def test_adding_and_repeating_keep_origins(left: str, right: str, times: int) -> None:
    assert_followed(marked(left) + marked(right), left + right)
    assert_followed("ab" + marked(right) * times, "ab" + right * times)


@pytest.mark.property
@pytest.mark.parametrize("name", ["strip", "lstrip", "rstrip", "removeprefix", "removesuffix"])
@given(text=texts, other=short)
def test_trimming_keeps_origins(name: str, text: str, other: str) -> None:
    assert_followed(getattr(marked(text), name)(other), getattr(text, name)(other))


@pytest.mark.property
@pytest.mark.parametrize("name", ["split", "rsplit"])
@given(text=texts, separator=st.none() | short, times=st.integers(-1, 3))
def test_every_part_of_a_split_keeps_its_origins(name: str, text: str, separator: str | None, times: int) -> None:
    expected = getattr(text, name)(separator, times)
    parts = getattr(marked(text), name)(separator, times)
    assert parts == expected
    for part, plain_part in zip(parts, expected, strict=True):
        assert_followed(part, plain_part)


@pytest.mark.property
@given(text=texts, separator=short)
def test_partitions_and_lines_keep_origins(text: str, separator: str) -> None:
    parts = [*marked(text).partition(separator), *marked(text).rpartition(separator)]
    parts += [*marked(text).splitlines(), *marked(text).splitlines(True)]
    expected = [*text.partition(separator), *text.rpartition(separator), *text.splitlines(), *text.splitlines(True)]
    assert parts == expected
    for part, plain_part in zip(parts, expected, strict=True):
        assert_followed(part, plain_part)


@pytest.mark.property
@given(text=texts, old=short, new=texts)
def test_replacing_keeps_the_origins_of_what_stays_and_of_what_comes(text: str, old: str, new: str) -> None:
    assert_followed(marked(text).replace(old, marked(new)), text.replace(old, new))


@pytest.mark.property
@given(text=texts, start=st.integers(-14, 14), stop=st.integers(-14, 14), step=st.sampled_from([None, 1, 2, -1, -2]))
def test_slices_keep_origins(text: str, start: int, stop: int, step: int | None) -> None:
    assert_followed(marked(text)[start:stop:step], text[start:stop:step])


@pytest.mark.property
@given(parts=st.lists(texts, max_size=5), separator=texts)
def test_joining_keeps_origins(parts: list[str], separator: str) -> None:
    assert_followed(marked(separator).join(map(marked, parts)), separator.join(parts))
    assert_followed(join(map(marked, parts), marked(separator)), separator.join(parts))


@pytest.mark.property
@given(text=texts, value=texts)
def test_patterns_keep_the_origins_of_what_is_filled_in(text: str, value: str) -> None:
    pattern = "".join(c for c in text if c in TEMPLATE) + "%s and %s"
    result = fill(lambda values: pattern % values, (marked(value), "b"))
    assert_followed(result, pattern % (value, "b"))


def test_a_width_in_a_pattern_makes_everything_data() -> None:
    result = fill(lambda values: "<%5s>" % values, (marked("A"),))  # noqa: UP031
    assert result == "<    A>"
    assert all(data_in(result))


@pytest.mark.parametrize("number", [0, 5])
def test_a_pattern_with_text_that_looks_like_a_placeholder_loses_nothing(number: int) -> None:
    pattern = f"\ufdd0{number}\ufdd1 %s"
    assert fill(lambda values: pattern % values, (marked("A"),)) == f"\ufdd0{number}\ufdd1 A"


@pytest.mark.parametrize("name", ["title", "capitalize", "swapcase", "casefold"])
def test_a_change_that_cannot_be_followed_makes_everything_data(name: str) -> None:
    result = getattr(marked("ab AB"), name)()
    assert result == getattr("ab AB", name)()
    assert all(data_in(result))


def test_upper_case_that_is_longer_makes_everything_data() -> None:
    assert all(data_in(join([all_data("ß", 1), "x"]).upper()))
    assert data_in(join([all_data("s", 1), "x"]).upper()) == [True, False]


@pytest.mark.parametrize("name", ["encode", "format", "format_map", "translate"])
def test_ways_to_lose_the_origin_are_closed(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        getattr(marked("A"), name)({})


def test_a_marked_text_is_equal_to_the_plain_one() -> None:
    assert marked("AB") == "AB"
    assert {marked("AB"): 1}["AB"] == 1
    assert "B" in marked("AB")
    assert list(marked("Ab")) == ["A", "b"]
    assert isinstance(str(marked("A")), Marked)


def test_indexing_by_a_name_is_a_type_error_as_for_a_plain_text() -> None:
    with pytest.raises(TypeError):
        marked("A")["type"]  # type: ignore[index]


def test_neighbours_of_one_message_are_one_span_and_others_are_not() -> None:
    text = join([all_data("ab", 1), all_data("c", 1), all_data("d", 2), "e"])
    assert spans_of(text) == ((0, 3, 1), (3, 4, 2))


def test_marking_reaches_into_lists_mappings_and_keys() -> None:
    value = mark({"key": ["text", 3, None]}, 4)
    assert value == {"key": ["text", 3, None]}
    (key,) = value
    assert has_data(key)
    assert origin_of(value) == 4
    assert origin_of([3, {}, "plain"]) is None


def test_the_origin_of_a_mixture_is_no_message() -> None:
    assert origin_of([all_data("a", 1), all_data("b", 2)]) == SEVERAL_MESSAGES
    assert all_data("x", None)._spans == ((0, 1, SEVERAL_MESSAGES),)


def test_data_can_be_left_out_of_a_text() -> None:
    assert without_data(join(["no ", all_data("secret", 1), "!"])) == "no …!"
