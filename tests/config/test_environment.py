"""Variables in a configuration: what they become, and what is said when one is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.config.environment import escape, expand
from entrenar_core.config.load import config_from_text
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.yaml_source import read_text
from entrenar_core.errors import ConfigError

ENVIRON = {"BASE": "/models", "LR": "1e-4", "YES": "true", "EMPTY": "", "NUMBERS": "1 2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${BASE}/a.gguf", "/models/a.gguf"),
        ("${BASE}${BASE}", "/models/models"),
        ("${LR}", 1e-4),
        ("${YES}", True),
        ("${NUMBERS}", "1 2"),
        ("${LR}0", "1e-40"),
        ("${EMPTY}", None),
        ("x${EMPTY}", "x"),
        ("${NOT_SET:-8}", 8),
        ("${EMPTY:-8}", 8),
        ("${NOT_SET:-}", None),
        ("${LR:-8}", 1e-4),
        ("${NOT_SET:-a b:c}", "a b:c"),
        ("$${LR}", "${LR}"),
        ("$$${LR}", "$${LR}"),
        ("$LR and $", "$LR and $"),
        ("{{ '$' }}", "{{ '$' }}"),
    ],
)
def test_variables_are_filled_in(text: str, value: object) -> None:
    found = expand(text, ENVIRON)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["${", "${}", "${1X}", "${A B}", "${A:8}", "${A-8}", "${A", "a ${ b"])
def test_what_is_no_variable_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a variable") as caught:
        expand(text, ENVIRON)
    assert "${NAME:-default}" in str(caught.value.hint)


def test_a_variable_that_is_not_set_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="BASES is not set") as caught:
        expand("${BASES}", ENVIRON)
    assert str(caught.value.hint).startswith("did you mean ${BASE}?")


def test_the_value_of_a_variable_is_not_expanded_again() -> None:
    assert expand("a ${A}", {"A": "${B}", "B": "no"}) == "a ${B}"


@pytest.mark.property
@given(st.text(alphabet="${}:-A a") | st.text())
def test_escaped_text_comes_back(text: str) -> None:
    assert expand(escape(text), {}) == text


def test_every_missing_variable_is_reported_at_its_place() -> None:
    source = read_text("model: {path: '${A}/x'}\ndata:\n  train: [a, '${B}']\n", "test.yaml", {})
    assert [(problem.where, problem.key) for _, problem in source.stopping] == [
        ("test.yaml:1:15", "model.path"),
        ("test.yaml:3:14", "data.train[1]"),
    ]


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRENAR_TEST_LR", "fast")
    with pytest.raises(ConfigProblems) as caught:
        config_from_text("model: {path: b}\ndata: {train: a}\noptimizer:\n  lr: ${ENTRENAR_TEST_LR}", "test.yaml")
    assert 'value "fast" (from ${ENTRENAR_TEST_LR}); must be a number' in str(caught.value)


def test_variables_work_in_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTRENAR_TEST_LR", "0.5")
    text = "model: {path: b}\ndata: {train: a}"
    assert config_from_text(text, "t.yaml", ["optimizer.lr=${ENTRENAR_TEST_LR}"]).optimizer.lr == 0.5
    with pytest.raises(ConfigProblems, match=r"--set optimizer\.lr.*ENTRENAR_TEST_NONE is not set"):
        config_from_text(text, "t.yaml", ["optimizer.lr=${ENTRENAR_TEST_NONE}"])
