"""The JSON Schema of `entrenar schema` says the same as the check of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.base import Section, entry_section, key_of, nested_section
from entrenar_core.config.compose import COMPOSING_KEYS
from entrenar_core.config.json_schema import DIALECT, json_schema, merge_schema, quantize_schema
from entrenar_core.config.load import config_from_text
from entrenar_core.config.ludwig import INPUT, OUTPUT
from entrenar_core.config.merge_file import MergeConfig, merge_config
from entrenar_core.config.quantize_file import QuantizeConfig, quantize_config
from entrenar_core.config.resolved import resolved_yaml
from entrenar_core.config.root import Config
from entrenar_core.config.yaml_source import read_text
from entrenar_core.errors import ConfigError

jsonschema = pytest.importorskip("jsonschema", reason="the JSON Schema is checked with the package jsonschema")

ROOT = Path(__file__).parents[2]
MERGES = [ROOT / "configs" / f"{name}.yaml" for name in ("merge-stack", "merge-ties")]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("merge-"))
SCHEMA = json_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)
SMALLEST = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"
EXAMPLE_OF_THE_DESIGN = """
model:      {path: base.gguf, layers: [q_proj, k_proj, v_proj, o_proj]}
data:       {train: train.parquet, batch_size: 8, auto_infer_types: true}
optimizer:  {name: adam, lr: 1e-4}
lora:       {rank: 64, alpha: 16}
quantize:   {bits: 4, symmetric: true}
merge:      {method: TIES, density: 0.2}
"""

GOOD = [
    SMALLEST,
    EXAMPLE_OF_THE_DESIGN,
    "model: {path: b}\ndata: {train: [a.parquet, {path: b, weight: 0.5, task: Chat, columns: {messages: c}}]}",
    "model: {path: b}\ndata: {train: {path: b, weight: 2}, val: [v.csv], columns: {text: t, label: l}, overlong: DROP}",
    "model: {path: b}\ndata: {train: a, streaming: true}\ntraining: {max_steps: 10}",
    "model: {path: b}\ndata: {train: a, val: b}\ntraining: {early_stopping: {patience: 2}}",
    SMALLEST + "optimizer:\ntraining: null\noutput: ~\nlora: null\n",
    SMALLEST + "optimizer: {name: SGD, momentum: 0.9, warmup: 0.1, grad_clip: null}",
    SMALLEST + "optimizer: {betas: [0.9, 0.95], warmup: 100}",
    SMALLEST + "lora: {target_modules: ALL}\nquantize: {type: Q8_0}",
    SMALLEST + "lora: {target_modules: [q_proj]}\nquantize: {bits: 8, granularity: block, stage: base}",
    SMALLEST + "merge: {method: task_arithmetic, lambda: 0.5, models: [a.gguf, {path: b.gguf, weight: 0.3}]}",
    "model: {path: b}\ndata: {train: a}\ninput_features: [{name: t, type: text}]\n"
    "output_features: [{name: l, type: category}]",
    SMALLEST + "distill: {teacher: t, loss: Jensen_Shannon, beta: 0.3, layers: Even, hidden: {loss: COSINE}}",
    SMALLEST + "distill: {teachers: [a, {path: b, weight: 2}], cache: {path: c, top_k: 8}}",
    SMALLEST + "distill: {teacher: t, layers: {0: 1, 1: 3}, on_policy: {}}\nlora: {}",
    "data: {train: a}\ndistill: {teacher: t, student: {layers: 6, hidden: 64}}",
    "data: {train: a}\ndistill: {teacher: t, alpha: 0, student: {layers: [0, 2], init: From_Teacher}}",
    "model: {architecture: {type: LLAMA, hidden_size: 64, num_layers: 2, num_heads: 4, intermediate_size: 128,"
    " vocab_size: 512}}\ndata: {train: a}",
]
BAD = [
    "model: {path: base.gguf}",
    "data: {train: a}",
    SMALLEST + "optimiser: {lr: 1}",
    SMALLEST + "optimizer: {lr: '1e-4'}",
    SMALLEST + "optimizer: {lr: 0}",
    SMALLEST + "optimizer: {name: lion}",
    SMALLEST + "optimizer: {betas: [0.9]}",
    SMALLEST + "optimizer: {warmup: 1.5}",
    SMALLEST + "lora: {rank: 0}",
    SMALLEST + "lora: {target_modules: q_proj}",
    SMALLEST + "lora: {rank: true}",
    SMALLEST + "quantize: {bits: 5}",
    SMALLEST + "quantize: {bits: 4, type: q9}",
    SMALLEST + "merge: {density: 0.2}",
    SMALLEST + "merge: {method: ties, lambda_: 0.2}",
    SMALLEST + "merge: {method: ties, models: []}",
    SMALLEST + "distill: {layers: [-1], teacher: t}",
    SMALLEST + "distill: {layers: {a: -1}, teacher: t}",
    SMALLEST + "distill: {teachers: []}",
    SMALLEST + "distill: {teacher: t, loss: kl}",
    SMALLEST + "distill: {teacher: t, cache: {}}",
    SMALLEST + "distill: {teacher: t, cache: {path: c, top_k: 0}}",
    "data: {train: a}\ndistill: {teacher: t}",
    "data: {train: a}\ndistill: {teacher: t, student: {layers: 0}}",
    "data: {train: a}\ndistill: {teacher: t, student: {layers: [-1]}}",
    "distill: {teacher: t, student: {layers: 2}}",
    SMALLEST + "version: 2",
    "model: {path: b}\ndata: {train: []}",
    "model: {path: b}\ndata: {train: ''}",
    "model: {path: b}\ndata: {train: [{weight: 1}]}",
    "model: {path: b}\ndata: {train: [{path: a, weight: 0}]}",
    "model: {path: b}\ndata: {train: [{path: a, wieght: 1}]}",
    "model: {path: b}\ndata: {train: a, columns: {txet: b}}",
    "model: {path: b}\ndata: {train: a, columns: {}}",
    "model: {path: b}\ndata: {train: a, task: translation}",
    "model: {path: b}\ndata: {train: a, batch_size: null}",
    "model: {path: b}\ndata: {train: a, streaming: auto}",
    "model: {path: b}\ndata: {train: a, val: b}\ntraining: {early_stopping: {min_delta: 2}}",
    "model: {path: b}\ndata: {train: a}\ninput_features: [{name: t, type: image}]\n"
    "output_features: [{name: l, type: category}]",
    "model: {path: b}\ndata: {train: a}\ninput_features: []\noutput_features: [{name: l, type: category}]",
    "model: {architecture: {type: llama}}\ndata: {train: a}",
]


def errors(text: str) -> list[str]:
    return [error.message for error in CHECK.iter_errors(read_text(text, "test.yaml").data)]


def test_it_is_a_schema_of_draft_2020_12() -> None:
    assert SCHEMA["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_ready_configuration_is_valid(path: Path) -> None:
    assert errors(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", GOOD)
def test_what_the_check_of_a_run_accepts_the_schema_accepts(text: str) -> None:
    config = config_from_text(text, "test.yaml")
    assert errors(text) == []
    assert errors(resolved_yaml(config)) == []


@pytest.mark.parametrize("text", BAD)
def test_what_the_schema_refuses_the_check_of_a_run_refuses(text: str) -> None:
    assert errors(text) != []
    with pytest.raises(ConfigError):
        config_from_text(text, "test.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "base: parent.yaml",
        "include: parts.yaml\ntraining: {early_stopping: {min_delta: 0.1}}",
        "include: [a.yaml, b.yaml]\ndata: {batch_size: 4}",
        "base: parent.yaml\nmodel: {architecture: {num_layers: 3}}",
    ],
)
def test_a_file_with_a_parent_need_not_repeat_required_keys(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    ("section", "key"), [("optimizer", "lr"), ("lora", "rank"), ("output", "gguf"), ("lora", "init")]
)
def test_a_variable_may_stand_for_any_value(section: str, key: str) -> None:
    values = {"model": {"path": "b"}, "data": {"train": "a"}, section: {key: "${ANY:-1}"}}
    assert list(CHECK.iter_errors(values)) == []
    assert list(CHECK.iter_errors({**values, section: {key: "ANY"}})) != []


def sections(section: type[Section]) -> Iterator[type[Section]]:
    yield section
    for field in section.model_fields.values():
        inner = nested_section(field) or entry_section(field)
        if inner is not None:
            yield from sections(inner)


@pytest.mark.parametrize("section", dict.fromkeys(sections(Config)), ids=lambda section: section.__name__)
def test_schema_and_sections_have_the_same_keys(section: type[Section]) -> None:
    more = {*COMPOSING_KEYS, INPUT, OUTPUT} if section is Config else set()
    assert keys_in(SCHEMA, Config, section) == keys_of(section) | more


@pytest.mark.parametrize("section", dict.fromkeys(sections(QuantizeConfig)), ids=lambda section: section.__name__)
def test_a_file_of_quantize_has_a_schema_of_its_own(section: type[Section]) -> None:
    more = set(COMPOSING_KEYS) if section is QuantizeConfig else set()
    assert keys_in(quantize_schema(), QuantizeConfig, section) == keys_of(section) | more


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("model: {path: a}\nquantize: {type: Q8_0}", True),
        ("model: {path: a}\nquantize: {bits: 4}\noutput: {path: b, report: c}\nrun: {memory: 1GiB, threads: 2}", True),
        ("model: {path: a}\nquantize: {bits: 4, calibration: {data: c, columns: {text: t}}}\nrun: {memory: 9}", True),
        ("base: parent.yaml\nrun: {threads: 1}", True),
        ("quantize: {bits: 4}", False),
        ("model: {path: a}\nquantize: {bits: 4}\nrun: {thread: 2}", False),
        ("model: {path: a}\nquantize: {bits: 4}\nrun: {threads: 0}", False),
        ("model: {path: a}\nquantize: {bits: 4}\ndata: {train: a}", False),
    ],
)
def test_the_schema_of_quantize_agrees_with_its_check(text: str, is_right: bool, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(quantize_schema())
    check = jsonschema.Draft202012Validator(quantize_schema())
    assert check.is_valid(read_text(text, "q.yaml").data) is is_right
    (tmp_path / "parent.yaml").write_text("model: {path: a}\nquantize: {bits: 4}\n")
    (tmp_path / "q.yaml").write_text(text)
    with nullcontext() if is_right else pytest.raises(ConfigError):
        quantize_config(tmp_path / "q.yaml", [])


@pytest.mark.parametrize("section", dict.fromkeys(sections(MergeConfig)), ids=lambda section: section.__name__)
def test_a_file_of_merge_has_a_schema_of_its_own(section: type[Section]) -> None:
    more = set(COMPOSING_KEYS) if section is MergeConfig else set()
    assert keys_in(merge_schema(), MergeConfig, section) == keys_of(section) | more


@pytest.mark.parametrize("path", MERGES, ids=lambda path: path.stem)
def test_every_ready_merge_is_valid(path: Path) -> None:
    check = jsonschema.Draft202012Validator(merge_schema())
    assert list(check.iter_errors(read_text(path.read_text(encoding="utf-8"), path.name).data)) == []


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("merge: {method: TIES, base: b, models: [a, {path: c, adapter: d, weight: -1, density: [0.5, 1]}]}", True),
        ("merge: {method: ties, base: {path: b, adapter: c}, models: [a], weight: [{filter: mlp, value: 1}]}", True),
        ("merge: {method: passthrough, slices: [{sources: [{path: a, layers: [0, 2]}], scale: 2}]}", True),
        ("merge: {method: dare_ties, base: b, models: [a], rescale: true, lambda: [{value: [0, 1]}], seed: 1}", True),
        (
            "merge: {method: linear, models: [a, b]}\noutput: {type: Q4_K_M, task_vector: false}\nrun: {memory: 1GiB}",
            True,
        ),
        ("base: parent.yaml\nrun: {threads: 1}", True),
        ("output: {path: a}", False),
        ("merge: {models: [a, b]}", False),
        ("merge: {method: tis, base: b, models: [a]}", False),
        ("merge: {method: linear, models: []}", False),
        ("merge: {method: linear, models: [a, {weight: 1}]}", False),
        ("merge: {method: linear, models: [a, {path: b, weights: 1}]}", False),
        ("merge: {method: linear, models: [a, b], weight: []}", False),
        ("merge: {method: linear, models: [a, b], weight: [{filter: mlp}]}", False),
        ("merge: {method: linear, models: [a, b], lambda_: 1}", False),
        ("merge: {method: passthrough, slices: [{sources: [{path: a}]}]}", False),
        ("merge: {method: passthrough, slices: [{sources: [{path: a, layers: [0]}]}]}", False),
        ("merge: {method: linear, models: [a, b]}\noutput: {format: onnx}", False),
    ],
)
def test_the_schema_of_merge_agrees_with_its_check(text: str, is_right: bool, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(merge_schema())
    check = jsonschema.Draft202012Validator(merge_schema())
    assert check.is_valid(read_text(text, "m.yaml").data) is is_right
    (tmp_path / "parent.yaml").write_text("merge: {method: linear, models: [a, b]}\n")
    (tmp_path / "m.yaml").write_text(text)
    with nullcontext() if is_right else pytest.raises(ConfigError):
        merge_config(tmp_path / "m.yaml", [])


def keys_of(section: type[Section]) -> set[str]:
    return {key_of(name, field) for name, field in section.model_fields.items()}


def keys_in(whole: Mapping[str, Any], root: type[Section], section: type[Section]) -> set[str]:
    part = whole if section is root else whole["$defs"][section.__name__]
    assert part["additionalProperties"] is False
    return set(part["properties"])


def test_every_key_has_a_description_and_known_defaults_are_given() -> None:
    definitions = [SCHEMA, *(part for part in SCHEMA["$defs"].values() if "Feature" not in part.get("title", ""))]
    nameless = [
        key for part in definitions for key, value in part.get("properties", {}).items() if not value.get("description")
    ]
    assert [key for key in nameless if key not in ("name", "column")] == []
    data = SCHEMA["$defs"]["Data"]["properties"]
    assert data["batch_size"]["default"] == 8
    assert data["train_turns"]["anyOf"][0] == {"enum": ["all", "last"]}
