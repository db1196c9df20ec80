"""How a command ends badly: its message and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer

from entrenar_cli.failures import ReportingCommand
from entrenar_cli.options import Call, DebugOption, JsonOption
from entrenar_cli.signals import Terminated
from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.errors import ConfigError, FormatError, TrainingError
from entrenar_core.train.interrupt import Interrupted


def exit_code_of(error: BaseException, *arguments: str) -> int:
    """Run a command that raises `error`, in the way the real ones are run."""

    def fail(json_lines: JsonOption = False, debug: DebugOption = False) -> None:
        raise error

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command: Callable[..., None] = fail
    app.command(cls=ReportingCommand)(command)
    code = app(list(arguments), standalone_mode=False, obj=Call())
    assert isinstance(code, int)
    return code


def test_an_error_of_ours_is_a_message_with_place_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(FormatError("wrong magic", where="a.gguf", hint="is it a GGUF?")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: a.gguf: wrong magic\nhint: is it a GGUF?\n"


def test_a_failed_run_has_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(TrainingError("the loss is not finite")) == 1
    assert capsys.readouterr().err == "error: the loss is not finite\n"


def test_a_bug_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(ZeroDivisionError("division by zero")) == 70
    err = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: division by zero" in err
    assert "bug" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(ConfigError("wrong"), "--debug") == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError("too big"), 1), (typer.Exit(3), 3)]
)
def test_other_ends(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_interrupt_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = Interrupted("stopped by SIGTERM after step 3", signal_number=15, hint="go on with --resume")
    assert exit_code_of(interrupted) == 143
    assert capsys.readouterr().err == "interrupted: stopped by SIGTERM after step 3\nhint: go on with --resume\n"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_ctrl_c_outside_the_loop_is_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(KeyboardInterrupt(), *arguments) == 130
    captured = capsys.readouterr()
    assert "interrupted" in (captured.out if arguments else captured.err)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_signal_that_ends_the_command_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(Terminated(15), *arguments) == 143
    captured = capsys.readouterr()
    assert "interrupted by SIGTERM" in (captured.out if arguments else captured.err)


def test_json_carries_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(FormatError("wrong magic", where="a.gguf"), "--json") == 2
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "event": "error",
        "kind": "FormatError",
        "exit_code": 2,
        "message": "wrong magic",
        "where": "a.gguf",
        "hint": None,
    }


def test_json_lists_the_problems_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(ConfigProblems([Problem("c.yaml:1:1", "lora.rank", "value 0", "no")]), "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["kind"] == "ConfigError"
    assert content["problems"] == [{"where": "c.yaml:1:1", "key": "lora.rank", "message": "value 0", "hint": "no"}]


def test_a_bug_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(ValueError("odd"), "--json") == 70
    content = json.loads(capsys.readouterr().out)
    assert (content["kind"], content["exit_code"]) == ("ValueError", 70)
