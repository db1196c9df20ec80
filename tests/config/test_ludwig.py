"""Ludwig's features: what they are translated into, and which are refused."""

from __future__ import annotations

import pytest

from entrenar_core.config.load import config_from_text
from entrenar_core.config.problem import ConfigProblems

HEAD = "model: {path: base.gguf}\ndata: {train: a.csv}\n"
TEXT = "input_features: [{name: review, type: text}]\n"
STARS = "output_features: [{name: stars, type: category}]\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        config_from_text(text, "t.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("kind", "task", "role"),
    [
        ("category", "classification", "label"),
        ("binary", "classification", "label"),
        ("number", "regression", "target"),
        ("Number", "regression", "target"),
    ],
)
def test_the_type_of_the_output_decides_the_task(kind: str, task: str, role: str) -> None:
    config = config_from_text(f"{HEAD}{TEXT}output_features: [{{name: y, type: {kind}}}]", "t.yaml")
    assert config.data.task == task
    assert config.data.named_columns == {"text": "review", role: "y"}


def test_a_column_of_another_name_is_named_by_column() -> None:
    text = f"{HEAD}input_features: [{{name: review, column: body, type: text}}]\n{STARS}"
    assert config_from_text(text, "t.yaml").data.named_columns == {"text": "body", "label": "stars"}


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        (TEXT, "t.yaml:3:1", "needs output_features too"),
        (STARS, "t.yaml:3:1", "needs input_features too"),
        ("input_features: []\n" + STARS, "t.yaml:3:17", "0 features; must be a list of exactly one"),
        (
            "input_features: [{name: a, type: text}, {name: b, type: text}]\n" + STARS,
            "t.yaml:3:17",
            "2 features; must be a list of exactly one",
        ),
        ("input_features: {name: a}\n" + STARS, "t.yaml:3:17", "must be a list of exactly one feature"),
        ("input_features: [review]\n" + STARS, "t.yaml:3:17", "must be a list of exactly one feature"),
        ("input_features: [{name: a, type: image}]\n" + STARS, "t.yaml:3:34", 'value "image"; must be text'),
        ("input_features: [{type: text}]\n" + STARS, "t.yaml:3:18", "required key is missing"),
        ("input_features: [{name: 1, type: text}]\n" + STARS, "t.yaml:3:25", "must be the name of a column"),
        (
            "input_features: [{name: a, type: text, encoder: bert}]\n" + STARS,
            "t.yaml:3:40",
            "input_features[0].encoder: unknown key",
        ),
        (
            TEXT + "output_features: [{name: y, type: categry}]",
            "t.yaml:4:35",
            "must be one of category, binary, number; did you mean category?",
        ),
        (TEXT + "output_features: [{name: y, type: text}]", "t.yaml:4:35", "name data.prompt and data.completion"),
    ],
)
def test_what_is_not_supported_is_refused_at_its_place(text: str, where: str, says: str) -> None:
    [problem] = problems(HEAD + text)
    assert problem.startswith(f"{where}: ")
    assert says in problem


@pytest.mark.parametrize("own", ["task: chat", "columns: {text: a, label: b}", "text: a"])
def test_features_and_own_keys_exclude_each_other(own: str) -> None:
    [problem] = problems(f"model: {{path: b}}\ndata: {{train: a, {own}}}\n{TEXT}{STARS}")
    assert f"cannot go together with data.{own.split(':', maxsplit=1)[0]}" in problem


def test_a_conflict_of_a_translated_key_stands_at_the_feature() -> None:
    [problem] = problems(f"model: {{path: b}}\ndata: {{train: a, overlong: split}}\n{TEXT}{STARS}")
    assert problem.startswith("t.yaml:2:18: data.overlong: one example of classification")
