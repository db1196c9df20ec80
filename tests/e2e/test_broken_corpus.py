"""The corpora of broken YAML and broken data through the command line, as a newcomer meets them.

Each gets the one message that is kept beside it, exit code 2, no traceback, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.broken import CASES
from tests.e2e.command import Outcome, call, entrenar, tree
from tests.stages.tiny_base import write_base, write_config

TESTS = Path(__file__).parents[1]
YAML = TESTS / "config" / "broken"
YAML_NAMES = sorted(path.stem for path in YAML.glob("*.yaml"))
DATA_MESSAGES = TESTS / "data" / "broken"
BY_THE_SCHEMA = {"empty_path": 'error: config.yaml:3:3: data.train.path: value ""; must be text that is not empty\n'}
"""What the schema of the YAML already refuses, so that no data set is looked for."""
UNUSED = "file_with_numbers_that_no_common_type_holds"
"""The fault lies in a column that training does not read: an error for who reads it, and none for a run."""
DATA_NAMES = [name for name in CASES if name != UNUSED]

Command = Callable[..., Outcome]


def test_there_are_fifty_of_each() -> None:
    assert len(YAML_NAMES) >= 50
    assert len(CASES) >= 50


def check_yaml(name: str, run: Command) -> None:
    before = tree(YAML)
    done = run("validate", f"{name}.yaml", cwd=YAML)
    assert done.code == 2
    assert done.err == f"error: {message(YAML / f'{name}.txt')}"
    assert done.out == ""
    assert tree(YAML) == before


@pytest.mark.parametrize("name", YAML_NAMES)
def test_a_broken_yaml_gets_its_message(name: str) -> None:
    check_yaml(name, call)


@pytest.mark.parametrize("name", ["tab_indentation", "axolotl_keys", "value_of_an_include"])
def test_a_broken_yaml_gets_its_message_in_a_shell(name: str) -> None:
    check_yaml(name, entrenar)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.gguf")


def broken_data(name: str, base: Path, folder: Path) -> str:
    """A folder with the broken data and a good ``config.yaml`` that names them; what names the data in messages."""
    data = folder / "data"
    data.mkdir()
    path = CASES[name](data)
    write_config(folder, model={"path": str(base)}, data={"train": str(path)})
    return str(data)


def check_data(name: str, base: Path, folder: Path, *command: str, run: Command) -> None:
    data = broken_data(name, base, folder)
    before = tree(folder)
    done = run(*command, cwd=folder)
    assert done.code == 2
    expected = BY_THE_SCHEMA.get(name) or f"error: {message(DATA_MESSAGES / f'{name}.txt')}"
    assert done.err.replace(data, "data") == expected
    assert done.out == ""
    assert tree(folder) == before


@pytest.mark.parametrize("name", DATA_NAMES)
def test_broken_data_get_their_message(name: str, base: Path, tmp_path: Path) -> None:
    check_data(name, base, tmp_path, "validate", "config.yaml", run=call)


def test_a_fault_in_a_column_that_is_not_read_stops_no_run(base: Path, tmp_path: Path) -> None:
    broken_data(UNUSED, base, tmp_path)
    assert call("validate", "config.yaml", cwd=tmp_path).code == 0


@pytest.mark.parametrize("command", [("train", "config.yaml"), ("train", "config.yaml", "--dry-run")])
@pytest.mark.parametrize("name", ["csv_open_quote", "parquet_not_utf8", "file_with_another_type"])
def test_training_and_its_plan_say_the_same(name: str, command: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    check_data(name, base, tmp_path, *command, run=call)


@pytest.mark.parametrize("name", ["git_lfs_pointer", "json_broken_line", "missing_file"])
def test_broken_data_get_their_message_in_a_shell(name: str, base: Path, tmp_path: Path) -> None:
    check_data(name, base, tmp_path, "validate", "config.yaml", run=entrenar)


def message(path: Path) -> str:
    """The message on record, in the form that the command line gives it."""
    return path.read_text(encoding="utf-8").replace("\n  hint: ", "\nhint: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", YAML_NAMES)
def test_a_broken_yaml_is_one_json_object_for_scripts(name: str) -> None:
    done = call("validate", f"{name}.yaml", "--json", cwd=YAML)
    found = done.document()
    assert (done.code, done.err) == (2, "")
    assert (found["event"], found["kind"], found["exit_code"]) == ("error", "ConfigError", 2)
    assert said(found) == message(YAML / f"{name}.txt").rstrip("\n")


def test_each_problem_of_a_yaml_can_be_read_by_itself() -> None:
    found = call("validate", "unknown_keys.yaml", "--json", cwd=YAML).document()
    assert len(found["problems"]) == 8
    assert found["problems"][1] == {
        "where": "unknown_keys.yaml:2:26",
        "key": "data.batchsize",
        "message": "unknown key",
        "hint": "use data.batch_size",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_NAMES)
def test_broken_data_are_one_json_object_for_scripts(name: str, base: Path, tmp_path: Path) -> None:
    data = broken_data(name, base, tmp_path)
    done = call("validate", "config.yaml", "--json", cwd=tmp_path)
    found = done.document()
    assert (done.code, done.err) == (2, "")
    assert (found["event"], found["exit_code"]) == ("error", 2)
    if name in BY_THE_SCHEMA:
        assert (found["kind"], found["where"]) == ("ConfigError", "config.yaml:3:3")
        return
    assert found["kind"] == "DataError"
    assert f"{said(found)}\n".replace(data, "data") == message(DATA_MESSAGES / f"{name}.txt")


def said(found: dict[str, str | None]) -> str:
    """The parts of an error put together as a person reads them."""
    place = f"{found['where']}: " if found["where"] else ""
    hint = f"\nhint: {found['hint']}" if found["hint"] else ""
    return f"{place}{found['message']}{hint}"
