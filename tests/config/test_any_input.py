"""Whatever a file holds, the answer is a Config or a ConfigError that says where."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrenar_core.config.base import schema_fields
from entrenar_core.config.load import config_from_text
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError

FIELDS = [path for path, _ in schema_fields(Config)]
KEYS = [
    *sorted({path[-1] for path in FIELDS}),
    "lr_",
    "learning_rate",
    "1",
    "input_features",
    "output_features",
    "base",
    "include",
]
SCALARS = st.sampled_from(
    ["1", "0", "-1", "1e-4", ".nan", "-.inf", "true", "no", "null", "", "~", "x", "'8'", "adamw", "sgd", "all", "a*",
     "[]", "{}", "[q_proj]", "[0.9, 0.99]", "llama", "9" * 400, "1e400", '"\\ud800"', "!!int 3", "&a 1", "*a", "%", "@",
     "'${NO_SUCH}'", "'${N:-1}'", "ties", "chat", "text", "4", "[a, a]", "[{path: a, weight: 2}]",
     "{text: a, label: b}", "[{name: a, type: text}]"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=8,
)


def section(name: str) -> st.SearchStrategy[str]:
    """Any values for the keys of one section, in flow style."""
    keys = [path[1] for path in FIELDS if len(path) == 2 and path[0] == name]
    pairs = st.dictionaries(st.sampled_from(keys), VALUES, max_size=5) if keys else st.just({})
    return pairs.map(lambda found: "{" + ", ".join(f"{key}: {value}" for key, value in found.items()) + "}")


SECTIONS = st.fixed_dictionaries(
    {}, optional={path[0]: section(path[0]) | SCALARS for path in FIELDS if len(path) == 1}
)


def outcome(text: str, overrides: Sequence[str] = ()) -> Config | ConfigError:
    try:
        return config_from_text(text, "test.yaml", overrides)
    except ConfigError as error:
        assert isinstance(error, ConfigProblems)
        assert all(problem.where.startswith(("test.yaml:", "--set ")) for problem in error.problems)
        assert str(error)
        return error


@pytest.mark.property
@given(SECTIONS | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
@example({"model": "{path: x}", "data": "{train: x}", "optimizer": "{weight_decay: null, name: 1}"})
@example({"model": "{architecture: {num_heads: 9, head_dim: 3}}", "data": "{train: x}"})
@example({"model": "{path: x, layers: [1]}", "data": "{train: x}", "lora": "{target_modules: [[]]}"})
def test_any_values_of_any_keys(sections: dict[str, str]) -> None:
    outcome("\n".join(f"{key}: {value}" for key, value in sections.items()))


@pytest.mark.property
@given(st.text() | st.text(alphabet=" \n\t:-[]{}&*!|>'\"%@`#,?ab1.~"))
def test_any_text(text: str) -> None:
    assert isinstance(outcome(text), ConfigError)


@pytest.mark.property
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS), VALUES | st.text()), max_size=3))
def test_any_overrides(overrides: list[tuple[str, str, str]]) -> None:
    outcome(
        "model: {path: base.gguf}\ndata: {train: a.parquet}", [f"{one}.{two}={value}" for one, two, value in overrides]
    )
