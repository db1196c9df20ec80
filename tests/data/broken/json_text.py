"""JSON that is broken, or that is no list of objects with one type for each key."""

from __future__ import annotations

import json
from pathlib import Path

from tests.data.broken.corpus import case, raw, text


@case
def json_broken_line(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{"text": "c"\n{"text": "d"}\n')


@case
def json_cut_line(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c and th')


@case
def json_commas_between_lines(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"},\n{"text": "b"},\n')


@case
def json_single_quotes(folder: Path) -> Path:
    return text(folder / "train.jsonl", "{'text': 'a'}\n{'text': 'b'}\n")


@case
def json_line_of_text(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n"just a text"\n')


@case
def json_array_of_texts(folder: Path) -> Path:
    return text(folder / "train.json", '["one text", "another"]')


@case
def json_number_and_string(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"score": null}\n{"score": 3}\n{"score": 4}\n{"score": "high"}\n')


@case
def json_number_and_string_far_apart(folder: Path) -> Path:
    lines = [json.dumps({"text": "x" * 100, "score": i}) for i in range(50_000)]
    return text(folder / "train.jsonl", "\n".join([*lines, json.dumps({"text": "x", "score": "high"})]))


@case
def json_content_of_two_types(folder: Path) -> Path:
    rows = [
        {"example": {"content": "hello"}},
        {"example": {"content": [{"type": "text", "text": "hello"}]}},
    ]
    return text(folder / "train.jsonl", "\n".join(map(json.dumps, rows)))


@case
def json_key_twice(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n')


@case
def json_not_utf8(folder: Path) -> Path:
    return raw(folder / "train.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n')


@case
def json_half_a_surrogate(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n')


@case
def json_one_object(folder: Path) -> Path:
    return text(folder / "train.json", json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2))


@case
def json_objects_over_several_lines(folder: Path) -> Path:
    return text(folder / "train.jsonl", '{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n')


@case
def json_array_cut(folder: Path) -> Path:
    return text(folder / "train.json", json.dumps([{"text": "a"}, {"text": "b"}], indent=2)[:-12])


@case
def json_array_without_comma(folder: Path) -> Path:
    return text(folder / "train.json", '[\n  {"text": "a"}\n  {"text": "b"}\n]\n')


@case
def json_array_with_comma_at_the_end(folder: Path) -> Path:
    return text(folder / "train.json", '[\n  {"text": "a"},\n]\n')


@case
def json_blank_lines_only(folder: Path) -> Path:
    return text(folder / "train.jsonl", "\n\n  \n")


@case
def json_empty_array(folder: Path) -> Path:
    return text(folder / "train.json", "[]\n")
