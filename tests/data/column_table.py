"""Small columns as real data sets have them, and what each is taken for: the table that test_column_types.py checks."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple

import pyarrow as pa

from entrenar_core.data.column_types import Kind


class Example(NamedTuple):
    """A column, its Arrow type (None: what Arrow makes of the values), its kind, and what is special about it."""

    name: str
    values: list[object]
    arrow_type: pa.DataType | None
    kind: Kind
    comment: str
    is_id: bool = False


ROWS = 40
SENTENCES = [f"The quick brown fox number {index} jumps over a lazy dog near the river" for index in range(ROWS)]
DAY = dt.datetime(2024, 2, 29, 12, 30)
HASHES = [f"{index * 2654435761 % 2**32:08x}{index:08x}" for index in range(ROWS)]
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
OPENAI_JSON = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'
SHAREGPT_JSON = '[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]'
OPENAI_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def cycle(*values: object) -> list[object]:
    return [values[index % len(values)] for index in range(ROWS)]


def spread(first: float, step: float) -> list[object]:
    """Numbers that repeat a little and lie unevenly."""
    return [first + step * (index * index % 31) for index in range(ROWS)]


NUMBERS = [
    Example("price", spread(1.5, 0.25), pa.float64(), Kind.NUMBER, "prices"),
    Example("loss", spread(-1.5, 0.1), pa.float32(), Kind.NUMBER, "single precision, negative too"),
    Example("half", spread(0.5, 0.5), pa.float16(), Kind.NUMBER, "half precision"),
    Example("amount", [Decimal("10.25"), Decimal("3.10"), Decimal("7.77")] * 5, None, Kind.NUMBER, "decimals"),
    Example("votes", spread(3, 17), pa.int32(), Kind.NUMBER, "whole numbers with gaps"),
    Example("big", spread(2**63, 1024), pa.uint64(), Kind.NUMBER, "beyond int64"),
    Example(
        "age", [18 + index * index % 61 for index in range(ROWS)], pa.int8(), Kind.NUMBER, "ages: too many for codes"
    ),
    Example("stars_half", cycle(0.5, 1.0, 1.5, 2.0), pa.float64(), Kind.NUMBER, "few values, but no codes: halves"),
    Example("items", cycle(*range(19)), pa.float64(), Kind.NUMBER, "too many whole numbers for codes"),
    Example("tens", cycle(10, 20, 30), pa.int64(), Kind.NUMBER, "few whole numbers with gaps"),
    Example("with_nan", [*spread(1.5, 0.25), float("nan")], pa.float64(), Kind.NUMBER, "NaN is missing"),
    Example("as_text", [str(value) for value in spread(1.5, 0.25)], pa.string(), Kind.NUMBER, "numbers as strings"),
    Example("padded", [f" {value} " for value in spread(3, 17)], pa.string(), Kind.NUMBER, "with blanks around them"),
    Example("scientific", ["1e-4", "2.5E+3", "-.5", "7."], pa.string(), Kind.NUMBER, "every way to write a number"),
    Example("gaps", ["1.5", "", "2.25", "  "], pa.string(), Kind.NUMBER, "blank strings are missing"),
    Example("constant", [7] * ROWS, pa.int64(), Kind.NUMBER, "always the same number"),
    Example("big_text", [str(value) for value in spread(3, 17)], pa.large_string(), Kind.NUMBER, "large strings"),
    Example("three", [1, 5, 9], pa.int64(), Kind.NUMBER, "too few for anything else"),
]

IDS = [
    Example("row_number", list(range(ROWS)), pa.int64(), Kind.NUMBER, "a sequence, whatever its name", is_id=True),
    Example("nr", [float(index) for index in range(1, ROWS)], pa.float64(), Kind.NUMBER, "pandas' ids", is_id=True),
    Example("nr", [str(index) for index in range(100, 140)], pa.string(), Kind.NUMBER, "ids as strings", is_id=True),
    Example("nr", [index * 50 + index % 3 for index in range(ROWS)], pa.int64(), Kind.NUMBER, "a sample", is_id=True),
    Example("user_id", cycle(17, 99, 3), pa.int64(), Kind.NUMBER, "an id by name that repeats", is_id=True),
    Example("userId", cycle(17, 99, 3), pa.int64(), Kind.NUMBER, "an id in camel case", is_id=True),
    Example("id", ["a1", "b2", "c3"], pa.string(), Kind.TEXT, "few words, an id by name", is_id=True),
    Example("sha", HASHES, pa.string(), Kind.TEXT, "hashes", is_id=True),
    Example("link", [f"https://example.org/page/{h}" for h in HASHES], pa.string(), Kind.TEXT, "addresses", is_id=True),
    Example("mail", [f"{h}@example.org" for h in HASHES], pa.string(), Kind.TEXT, "mail addresses", is_id=True),
    Example("Unnamed: 0", [5, 3, 9], pa.int64(), Kind.NUMBER, "the index that pandas leaves", is_id=True),
    Example("paid", spread(3, 17), pa.int64(), Kind.NUMBER, "ends like an id and is none"),
    Example("valid", cycle("yes", "no"), pa.string(), Kind.BINARY, "the same with strings"),
    Example("label_id", cycle(0, 1, 2), pa.int64(), Kind.CATEGORY, "the id of a class is a class"),
]

BINARIES = [
    Example("spam", cycle(True, False), pa.bool_(), Kind.BINARY, "booleans"),
    Example("spam", [True] * ROWS, pa.bool_(), Kind.BINARY, "booleans that never change"),
    Example("spam", cycle("yes", "no"), pa.string(), Kind.BINARY, "yes and no"),
    Example("spam", cycle("Yes", "no", "YES"), pa.string(), Kind.BINARY, "in any case"),
    Example("spam", cycle("True", "False"), pa.string(), Kind.BINARY, "Python's booleans"),
    Example("spam", cycle("t", "f"), pa.string(), Kind.BINARY, "PostgreSQL's"),
    Example("spam", cycle("y", "n", None), pa.string(), Kind.BINARY, "with a missing one"),
    Example("spam", cycle(0, 1, 1), pa.int64(), Kind.BINARY, "0 and 1"),
    Example("spam", cycle(0.0, 1.0, float("nan")), pa.float64(), Kind.BINARY, "0 and 1 after pandas met a null"),
    Example("spam", cycle("0", "1"), pa.string(), Kind.BINARY, "0 and 1 as strings"),
    Example("side", cycle(-1, 1), pa.int8(), Kind.BINARY, "-1 and 1"),
]

CATEGORIES = [
    Example("mood", cycle("happy", "sad", "angry"), pa.string(), Kind.CATEGORY, "words that repeat"),
    Example("mood", cycle("happy", "sad", "angry"), pa.dictionary(pa.int8(), pa.string()), Kind.CATEGORY, "encoded"),
    Example("mood", cycle("spam", "ham"), pa.large_string(), Kind.CATEGORY, "two words that are no truth values"),
    Example("mood", cycle("yes", "no", "maybe"), pa.string(), Kind.CATEGORY, "a third word beside yes and no"),
    Example("topic", cycle("World", "Sports", "Business", "Sci/Tech"), pa.string(), Kind.CATEGORY, "news"),
    Example("choice", cycle("A", "B", "C", "D"), pa.string(), Kind.CATEGORY, "multiple choice"),
    Example("label", cycle(0, 1, 2, 3), pa.int64(), Kind.CATEGORY, "codes from 0"),
    Example("label", cycle(1, 2, 3, 4, 5), pa.int32(), Kind.CATEGORY, "codes from 1"),
    Example("label", cycle(-1, 0, 1), pa.int8(), Kind.CATEGORY, "codes around 0"),
    Example("label", cycle("0", "1", "2"), pa.string(), Kind.CATEGORY, "codes as strings"),
    Example("label", cycle(0.0, 1.0, 2.0), pa.float64(), Kind.CATEGORY, "codes as floats"),
    Example("zip", cycle("01067", "00501", "07030"), pa.string(), Kind.CATEGORY, "leading zeros: codes, not numbers"),
    Example("level", cycle("very good", "good", "not so good"), pa.string(), Kind.CATEGORY, "several words"),
    Example("level", ["pos", "neg", "neg", "pos"], pa.string(), Kind.CATEGORY, "four rows"),
    Example("size", cycle("1", "2", "n/a"), pa.string(), Kind.CATEGORY, "numbers with a word among them"),
    Example("always", ["en"] * ROWS, pa.string(), Kind.CATEGORY, "one value: a constant"),
    Example("mood", cycle(" happy", "happy "), pa.string(), Kind.CATEGORY, "blanks do not make another value"),
]

TEXTS = [
    Example("text", SENTENCES, pa.string(), Kind.TEXT, "sentences"),
    Example("text", SENTENCES, pa.dictionary(pa.int32(), pa.string()), Kind.TEXT, "sentences, encoded"),
    Example("text", SENTENCES, pa.string_view(), Kind.TEXT, "views"),
    Example("text", [SENTENCES[0]] * ROWS, pa.string(), Kind.TEXT, "a sentence that repeats"),
    Example("text", [f"今天天气很好我们去公园{index}" for index in range(ROWS)], pa.string(), Kind.TEXT, "Chinese"),
    Example("text", [f"これは例文です{index}" for index in range(ROWS)], pa.string(), Kind.TEXT, "Japanese"),
    Example("title", [f"Chapter {index}" for index in range(ROWS)], pa.string(), Kind.TEXT, "short and all different"),
    Example("text", ["hello world"], pa.string(), Kind.TEXT, "a single row"),
    Example("code", [f"x{index}=" + "a+" * 60 for index in range(ROWS)], pa.string(), Kind.TEXT, "code without spaces"),
    Example("answer", [f"It is {index}, I think." for index in range(ROWS)], pa.string(), Kind.TEXT, "short answers"),
    Example("note", [*SENTENCES, None, ""], pa.string(), Kind.TEXT, "with missing ones"),
    Example(
        "json", ['{"name": "Ada", "age": 36}', '{"name": "Bo"}'], pa.string(), Kind.TEXT, "JSON that is no messages"
    ),
]

DATETIMES = [
    Example("day", [DAY.date()] * 3, pa.date32(), Kind.DATETIME, "days"),
    Example("when", [DAY] * 3, pa.timestamp("us"), Kind.DATETIME, "times of a day"),
    Example("when", [DAY] * 3, pa.timestamp("ns", tz="UTC"), Kind.DATETIME, "with a zone"),
    Example("clock", [DAY.time()] * 3, pa.time64("us"), Kind.DATETIME, "times without a day"),
    Example("took", [dt.timedelta(seconds=3)] * 3, pa.duration("s"), Kind.DATETIME, "durations"),
    Example("when", cycle("2024-02-29", "2023-01-05"), pa.string(), Kind.DATETIME, "ISO days that repeat"),
    Example("when", cycle("2024-02-29T12:30:00Z", "2023-01-05T01:02:03.5+02:00"), None, Kind.DATETIME, "ISO times"),
    Example("when", cycle("29.02.2024", "1.3.2024"), pa.string(), Kind.DATETIME, "German"),
    Example("when", cycle("2/29/2024", "3/1/2024 4:05 PM"), pa.string(), Kind.DATETIME, "American"),
    Example("when", cycle("Feb 29, 2024", "March 1, 2024"), pa.string(), Kind.DATETIME, "in words"),
    Example("when", cycle("Thu, 29 Feb 2024 12:30:00 GMT"), pa.string(), Kind.DATETIME, "of mail and the web"),
]

NESTED = [
    Example("messages", [OPENAI] * 3, OPENAI_TYPE, Kind.MESSAGES, "OpenAI's form"),
    Example("messages", [OPENAI] * 3, pa.large_list(OPENAI_TYPE.value_type), Kind.MESSAGES, "large lists"),
    Example("conversations", [SHAREGPT] * 3, None, Kind.MESSAGES, "ShareGPT's form"),
    Example("turns", [[{**turn, "weight": 1} for turn in OPENAI]] * 3, None, Kind.MESSAGES, "with more fields"),
    Example("chat", [OPENAI_JSON] * 3, pa.string(), Kind.MESSAGES, "OpenAI's form as JSON"),
    Example("chat", [SHAREGPT_JSON] * 3, pa.large_string(), Kind.MESSAGES, "ShareGPT's as JSON"),
    Example("chat", [f'{{"messages": {OPENAI_JSON}}}'] * 3, pa.string(), Kind.MESSAGES, "in an object, as JSON"),
    Example("chat", [{"messages": OPENAI, "tools": "[]"}] * 3, None, Kind.MESSAGES, "in a struct"),
    Example("chat", [*[OPENAI_JSON] * 19, '[{"role": '], pa.string(), Kind.MESSAGES, "one broken among many"),
    Example("chat", ["USER: Hi there, how are you? ASSISTANT: Hello"] * 3, None, Kind.TEXT, "a chat in plain text"),
    Example("turns", [[{"speaker": "A", "text": "Hi"}]] * 3, None, Kind.STRUCT, "another form of conversation"),
    Example("embedding", [[0.5, 1.5]] * 3, pa.list_(pa.float32(), 2), Kind.VECTOR, "of fixed size"),
    Example("embedding", [[0.5, 1.5], [2.5]], pa.list_(pa.float64()), Kind.VECTOR, "of any size"),
    Example("input_ids", [[1, 2, 3]] * 3, pa.list_(pa.int32()), Kind.VECTOR, "tokens"),
    Example("tags", [["a", "b"]] * 3, pa.list_(pa.string()), Kind.STRUCT, "lists of strings"),
    Example("meta", [{"source": "web", "page": 3}] * 3, None, Kind.STRUCT, "a struct"),
    Example("pairs", [{"a": 1}] * 3, pa.map_(pa.string(), pa.int64()), Kind.STRUCT, "a map"),
    Example("image", [b"\x89PNG"] * 3, pa.binary(), Kind.STRUCT, "bytes"),
    Example("matrix", [[[0.5], [1.5]]] * 3, None, Kind.STRUCT, "lists of lists"),
]

EMPTIES = [
    Example("nothing", [None] * 3, pa.null(), Kind.EMPTY, "no type"),
    Example("nothing", [None] * 3, pa.string(), Kind.EMPTY, "strings, all null"),
    Example("nothing", [None] * 3, OPENAI_TYPE, Kind.EMPTY, "messages, all null"),
    Example("nothing", ["", "  "], pa.string(), Kind.EMPTY, "blank strings"),
    Example("nothing", [float("nan")] * 3, pa.float64(), Kind.EMPTY, "NaN"),
    Example("nothing", [], pa.int64(), Kind.EMPTY, "no rows"),
    Example("nothing", [[], []], pa.list_(pa.null()), Kind.EMPTY, "empty lists"),
]

COLUMNS = [*NUMBERS, *IDS, *BINARIES, *CATEGORIES, *TEXTS, *DATETIMES, *NESTED, *EMPTIES]


def column_of(example: Example) -> pa.Array:
    """The column as Arrow has it."""
    type_ = example.arrow_type
    if type_ is not None and pa.types.is_dictionary(type_):
        return pa.array(example.values, type_.value_type).dictionary_encode().cast(type_)
    if type_ is not None and pa.types.is_float16(type_):
        return pa.array(example.values, pa.float32()).cast(type_)
    return pa.array(example.values, type_)
