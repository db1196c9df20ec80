"""Messages name keys as their reader knows them: as options, or as keys of another section."""

from __future__ import annotations

import pytest

from entrenar_core.config.key_names import keys_named, options_named, renamed
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.errors import ConfigError

OPTIONS = {
    "quantize.type": "--type",
    "quantize.bits": "--bits",
    "quantize.calibration.columns": "--columns",
    "run.memory": "--memory",
}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cannot go together with quantize.bits", "cannot go together with --bits"),
        ("set quantize.type: q4_1, or remove it", "--type q4_1, or remove it"),
        ("set quantize.type or quantize.bits", "set --type or --bits"),
        (
            "quantize.types and my.quantize.type and quantize.type.x",
            "quantize.types and my.quantize.type and quantize.type.x",
        ),
        ("a/quantize.type", "a/quantize.type"),
    ],
)
def test_whole_keys_are_replaced(text: str, says: str) -> None:
    assert renamed(text, OPTIONS) == says


def test_a_key_can_become_another_key() -> None:
    names = {"data.task": "quantize.calibration.task"}
    assert renamed("set data.task: chat", names) == "set quantize.calibration.task: chat"


def test_message_place_and_hint_of_an_error_are_renamed() -> None:
    with pytest.raises(ConfigError) as caught, keys_named(OPTIONS):
        raise ConfigError("quantize.type is odd", where="run.memory", hint="set quantize.bits")
    error = caught.value
    assert (error.message, error.where, error.hint) == ("--type is odd", "--memory", "set --bits")


def problem_said(where: str, key: str, message: str, hint: str | None = None) -> str:
    with pytest.raises(ConfigProblems) as caught, options_named(OPTIONS):
        raise ConfigProblems([Problem(where, key, message, hint)])
    return str(caught.value)


def test_a_problem_of_an_option_speaks_of_options() -> None:
    said = problem_said("--type", "quantize.type", "cannot go together with quantize.bits", "set type: q4_0")
    assert said == "--type: cannot go together with --bits; --type q4_0"
    assert problem_said("--type", "quantize.type", "odd", "set bits or type").endswith("odd; --bits or --type")
    assert problem_said("--type", "quantize.type", "odd", "set stage: qat").endswith("odd; set stage: qat")
    assert problem_said("--memory", "run.memory", "must be a number (or null)") == "--memory: must be a number"


def test_a_place_below_the_key_of_an_option_is_named() -> None:
    said = problem_said("--columns", "quantize.calibration.columns.txt", "is no role")
    assert said == "--columns txt: is no role"


@pytest.mark.parametrize("where", ["q.yaml:2:3", "--set quantize.bits"])
def test_a_problem_of_a_file_keeps_its_words(where: str) -> None:
    said = problem_said(where, "quantize.type", "cannot go together with quantize.bits", "set type: q4_0")
    assert said == f"{where}: quantize.type: cannot go together with quantize.bits; set type: q4_0"
