"""Reading YAML: what the scalars mean, where the keys stand, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.yaml_source import MAX_BYTES, parse_value, read_file, read_text
from entrenar_core.errors import ConfigError

SCALARS = [
    ("1e-4", 1e-4),
    ("1.5e3", 1500.0),
    ("+.5", 0.5),
    ("3.", 3.0),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("010", 10),
    ("0o10", 8),
    ("0x1F", 31),
    ("-7", -7),
    ("+7", 7),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("0b1", "0b1"),
    ("on", "on"),
    ("yes", "yes"),
    ("No", "No"),
    ("y", "y"),
    ("true", True),
    ("False", False),
    ("TRUE", True),
    ("tRUE", "tRUE"),
    ("null", None),
    ("~", None),
    ("", None),
    ("nULL", "nULL"),
    ("2024-01-01", "2024-01-01"),
    ("'1e-4'", "1e-4"),
    ('"\\n"', "\n"),
    ("=", "="),
    ("e5", "e5"),
    (".", "."),
    ("1e", "1e"),
    ("!!str 5", "5"),
    ("!!float 5", 5.0),
    ("[q_proj, 1]", ["q_proj", 1]),
    ("{a: {b: no}}", {"a": {"b": "no"}}),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text or "empty" for text, _ in SCALARS])
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_value(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_read_as_such() -> None:
    assert math.isnan(parse_value(".nan", "test"))  # type: ignore[arg-type]


def test_places_are_those_of_an_editor() -> None:
    source = read_text("model:\n  path: a.gguf\n  layers: [q, k]\n", "c.yaml")
    assert source.place(("model", "path")).where == "c.yaml:2:3"
    assert source.place(("model", "path"), of_value=True).where == "c.yaml:2:9"
    assert source.place(("model", "layers", 1)).where == "c.yaml:3:15"


def test_the_place_of_a_missing_key_is_its_section() -> None:
    source = read_text("a: 1\nmodel:\n  path: a.gguf\n", "c.yaml")
    assert source.place(("model", "tokenizer")).where == "c.yaml:2:1"
    assert source.place(("data", "train")).where == "c.yaml:1:1"


def test_an_alias_is_a_copy() -> None:
    data = read_text("a: &x {k: [1]}\nb: *x\n", "c.yaml").data
    assert data["a"] == data["b"] == {"k": [1]}
    assert data["a"] is not data["b"]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_file(path).data == {"a": 1, "b": "x"}


def test_keys_that_look_like_other_types_stay_text() -> None:
    assert read_text("1: a\non: b\nnull: c\n", "c.yaml").data == {"1": "a", "on": "b", "null": "c"}


def test_a_duplicate_key_is_reported_and_the_first_is_kept() -> None:
    source = read_text("a: 1\na: 2\n", "c.yaml")
    assert source.data == {"a": 1}
    assert [problem.where for _, problem in source.problems] == ["c.yaml:2:1"]


def test_a_number_with_very_many_digits_is_refused() -> None:
    with pytest.raises(ConfigProblems, match="too long"):
        read_text(f"a: {'9' * 5000}\n", "c.yaml")


def test_a_missing_file_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"No such file") as caught:
        read_file(tmp_path / "quikstart.yaml")
    assert caught.value.hint == f"did you mean {tmp_path / 'quickstart.yaml'}?"


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        read_file(tmp_path / "nowhere" / "c.yaml")


@pytest.mark.parametrize("content", [b"GGUF\x03\x00\x00\x00\xff\xfe", b"\xff\xfea\x00"])
def test_a_binary_file_is_not_a_configuration(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="UTF-8"):
        read_file(path)


def test_a_large_file_is_not_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        read_file(path)


def test_a_very_long_list_is_refused() -> None:
    with pytest.raises(ConfigProblems, match="too many entries"):
        read_text(f"a: [{', '.join('1' * 12_000)}]\n", "c.yaml")
