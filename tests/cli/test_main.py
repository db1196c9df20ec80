"""The command line as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrenar_cli.main import main
from entrenar_core import __version__
from tests.e2e.command import environment
from tests.stages.quantized import types_of, write_wide

BROKEN = Path(__file__).parents[1] / "config" / "broken"
RUN = "from entrenar_cli.main import run; run()"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"entrenar {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["generate", "-h"]])
def test_help_is_an_answer_and_not_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "Usage: entrenar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tran"], "Did you mean 'train'?"),
        (["train"], "Missing argument"),
        (["train", "a.yaml", "--rezume"], "No such option"),
        (["generate", "m.gguf"], "--prompt"),
        (["generate", "m.gguf", "--prompt", "x", "--seed", "-1"], "--seed"),
        (["generate", "m.gguf", "--prompt", "x", "--max-tokens", "many"], "--max-tokens"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_wrong_arguments_are_json_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--json"]) == 2
    content = json.loads(capsys.readouterr().out)
    assert (content["event"], content["kind"], content["exit_code"]) == ("error", "UsageError", 2)


def test_a_wrong_configuration_exits_with_2_and_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    path = BROKEN / "unknown_keys.yaml"
    assert main(["train", str(path)]) == 2
    expected = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert capsys.readouterr().err.replace(f"{BROKEN}/", "") == f"error: {expected}"


def test_a_missing_configuration_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the configuration" in capsys.readouterr().err


def test_the_output_folder_is_an_override(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: {path: base.gguf}\ndata: {train: a.parquet}\n")
    assert main(["train", str(config), "--output-dir", "", "--set", "lora.rank=0"]) == 2
    assert "--set lora.rank: value 0" in capsys.readouterr().err


@pytest.mark.integration
def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "numba", "pydantic", "yaml", "rich", "pyarrow", "tokenizers"]
    code = (
        "import sys; from entrenar_cli.main import main; main(['--help'])\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.integration
def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    code = (
        "import os, sys, typer\n"
        "from entrenar_cli.failures import ReportingCommand\n"
        "from entrenar_cli.options import Call\n"
        "def spam() -> None:\n"
        "    for _ in range(100_000): print('x' * 80)\n"
        "app = typer.Typer(add_completion=False)\n"
        "app.command(cls=ReportingCommand)(spam)\n"
        "sys.exit(app([], standalone_mode=False, obj=Call()))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.stderr is not None
    assert writer.stderr.read() == b""
    assert writer.wait(timeout=30) == 141


@pytest.mark.integration
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_work_is_done_where_standard_streams_are_closed(closed: str, tmp_path: Path) -> None:
    """Descriptor 1 or 2 would be that of the model; what is said goes nowhere."""
    write_wide(tmp_path / "model.gguf")
    run = f"quantize model.gguf -o out.gguf --type q8_0 --show-report {closed}"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m entrenar_cli {run}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert types_of(tmp_path / "out.gguf")["output.weight"] == "Q8_0"


@pytest.mark.integration
def test_the_version_can_be_asked_for_with_nobody_listening() -> None:
    command = f"{sys.executable} -m entrenar_cli --version >&-"
    done = subprocess.run(["sh", "-c", command], env=environment(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
