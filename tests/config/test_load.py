"""Files and overrides in, a checked configuration or all problems out."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.config.load import config_from_text, load_config
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError

SMALLEST = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"


def read(text: str, *overrides: str) -> Config:
    return config_from_text(text, "test.yaml", overrides)


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        read(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def test_the_output_folder_is_named_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shakespeare.yaml"
    path.write_text(SMALLEST)
    assert load_config(path).training.output_dir == "runs/shakespeare"
    assert load_config(path, ["training.seed=1"]).training.output_dir == "runs/shakespeare"
    assert load_config(path, ["training.output_dir=here"]).training.output_dir == "here"


def test_text_without_a_file_has_a_default_output_folder() -> None:
    assert read(SMALLEST).training.output_dir == "runs/default"


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path / "none.yaml")


def test_problems_are_in_the_order_of_the_file_and_overrides_come_last() -> None:
    found = problems("zzz: 1\nmodel: {path: 1}\ndata: {train: a}\nlora: {rank: 0}\n", "training.seed=x")
    assert [line.split(": ")[0] for line in found] == [
        "test.yaml:1:1",
        "test.yaml:2:15",
        "test.yaml:4:14",
        "--set training.seed",
    ]


def test_one_problem_has_its_place_apart() -> None:
    with pytest.raises(ConfigProblems) as caught:
        read(SMALLEST + "lora: {rank: 0}")
    assert caught.value.where == "test.yaml:3:14"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer", "lr", 1e-3),
        ("optimizer.grad_clip=null", "optimizer", "grad_clip", None),
        ("optimizer.betas=[0.8, 0.9]", "optimizer", "betas", (0.8, 0.9)),
        ("optimizer={name: sgd, momentum: 0.9}", "optimizer", "momentum", 0.9),
        ("model.path=other=name.gguf", "model", "path", "other=name.gguf"),
        (r'data.separator="\n\n"', "data", "separator", "\n\n"),
        ("data.packing=true", "data", "packing", True),
        ("lora.rank=4", "lora", "rank", 4),
    ],
)
def test_overrides_are_yaml_values(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(read(SMALLEST, override), section), key) == value


def test_the_last_override_wins() -> None:
    assert read(SMALLEST, "training.seed=1", "training.seed=2").training.seed == 2


def test_an_override_removes_a_section() -> None:
    assert read(SMALLEST + "lora: {rank: 4}", "lora=null").lora is None


def test_an_override_fills_an_empty_section() -> None:
    lora = read(SMALLEST + "lora:\n", "lora.rank=4").lora
    assert lora is not None
    assert lora.rank == 4


def test_an_override_repairs_the_file() -> None:
    assert read(SMALLEST + "training: {seed: -1}", "training.seed=1").training.seed == 1


def test_a_wrong_override_is_located_at_its_option() -> None:
    assert problems(SMALLEST, "optimizer.lr=fast") == [
        '--set optimizer.lr: value "fast"; must be a number greater than 0'
    ]


def test_an_unknown_override_gets_a_hint() -> None:
    assert problems(SMALLEST, "learning_rate=1e-3") == ["--set learning_rate: unknown key; use optimizer.lr"]
    assert problems(SMALLEST, "lora.rnk=3") == ["--set lora.rnk: unknown key; did you mean lora.rank?"]


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "optimizer..lr=3", ".lr=3"])
def test_an_override_that_is_not_key_and_value_is_refused(override: str) -> None:
    assert problems(SMALLEST, override)[-1].endswith("an override is written section.key=value")


def test_an_override_below_a_value_is_refused() -> None:
    assert problems(SMALLEST, "model.path.name=x") == [
        "--set model.path.name: model.path is not a section; set the whole value instead"
    ]


def test_an_override_that_is_not_yaml_is_refused() -> None:
    assert "is not a YAML value" in problems(SMALLEST, "data.separator=: :")[0]


def test_a_conflict_of_file_and_override_names_the_key_that_is_too_much() -> None:
    text = SMALLEST + "optimizer: {betas: [0.9, 0.99]}"
    assert problems(text, "optimizer.name=sgd") == [
        "test.yaml:3:13: optimizer.betas: sgd has no betas; it belongs to adam and adamw; "
        "remove it, or change optimizer.name"
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0,0001", "0.0001"),
        ("1,5", "1.5"),
        ("0,001", "0.001"),
        ("1,000", "1000"),
        ("1,000,000", "1000000"),
        ("1_0", "10"),
    ],
)
def test_a_number_with_a_comma_is_advised_as_it_was_meant(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"write {hint}"):
        config_from_text(f"model: {{path: a}}\ndata: {{train: b}}\noptimizer:\n  lr: {text}\n", "a.yaml")


def test_a_path_may_begin_with_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = config_from_text("model: {path: ~/base.gguf}\ndata: {train: b}\ntraining: {output_dir: ~/run}\n", "a.yaml")
    assert (config.model.path, config.training.output_dir) == ("/home/ada/base.gguf", "/home/ada/run")
