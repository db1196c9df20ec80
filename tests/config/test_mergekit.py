"""mergekit's YAML as it is: every key means here what it means there, is said to have no effect, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.merge_file import MergeConfig, merge_config
from entrenar_core.config.merge_parameters import Filtered
from entrenar_core.config.problem import ConfigProblems

TIES = """
models:
  - model: base.gguf
    # no parameters necessary for base model
  - model: a.gguf+lora
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: b.gguf
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: base.gguf
parameters:
  normalize: true
  int8_mask: true
  lambda: 0.5
dtype: float16
"""
SLERP = """
slices:
  - sources:
      - {model: a.gguf, layer_range: [0, 32]}
      - {model: base.gguf, layer_range: [0, 32]}
merge_method: slerp
base_model: base.gguf
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
out_dtype: bfloat16
tokenizer_source: union
"""
PASSTHROUGH = """
slices:
- sources:
  - model: a.gguf
    layer_range: [0, 24]
- sources:
  - model: b.gguf
    layer_range: [8, 32]
    parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}
merge_method: passthrough
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def read_text(text: str) -> MergeConfig:
        Path("m.yaml").write_text(text)
        return merge_config(Path("m.yaml"), [])

    return read_text


def test_models_with_their_parameters(read: Any) -> None:
    config = read(TIES)
    merge = config.merge
    assert (merge.method, merge.base.path, merge.lambda_, merge.normalize) == ("ties", "base.gguf", 0.5, True)
    assert [one.name for one in merge.models] == ["base.gguf", "a.gguf+lora", "b.gguf"]
    assert [one.density for one in merge.models] == [None, (1, 0.7, 0.1), 0.33]
    assert merge.models[2].weight == (Filtered("mlp", 0.5), Filtered(None, 0.0))
    assert config.output.type == "f16"
    assert config.notices == ("parameters.int8_mask has no effect: masks take no memory here",)


def test_slices_and_a_tokenizer(read: Any) -> None:
    config = read(SLERP)
    (part,) = config.merge.slices
    assert [(one.path, one.layers) for one in part.sources] == [("a.gguf", (0, 32)), ("base.gguf", (0, 32))]
    assert config.merge.t[0] == Filtered("self_attn", (0, 0.5, 0.3, 0.7, 1))
    assert (config.merge.tokenizer, config.output.type, config.notices) == ("union", "bf16", ())


def test_stacked_layers(read: Any) -> None:
    config = read(PASSTHROUGH)
    assert [part.sources[0].layers for part in config.merge.slices] == [(0, 24), (8, 32)]
    assert config.merge.slices[1].sources[0].scale == (Filtered("o_proj", 0.0), Filtered(None, 1.0))
    assert (config.merge.base, config.output.type) == (None, None)


def test_an_only_module_is_the_model(read: Any) -> None:
    inner = "\n".join(f"    {line}" for line in PASSTHROUGH.replace("merge_method: passthrough", "").splitlines())
    config = read(f"merge_method: passthrough\nmodules:\n  default:\n{inner}\n    parameters: {{scale: 2}}\n")
    assert len(config.merge.slices) == 2
    assert config.merge.scale == 2


def test_names_of_parameters_that_differ(read: Any) -> None:
    two = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]\n"
    nuslerp = read(two + "merge_method: nuslerp\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: 1}\n").merge
    assert (nuslerp.flatten, nuslerp.row_wise) == (False, True)
    multislerp = read(two + "merge_method: multislerp\nparameters: {normalize_weights: 0, eps: 1e-6}\n").merge
    assert (multislerp.normalize, multislerp.eps) == (False, 1e-6)


@pytest.mark.parametrize(("written", "meant"), [("true", "l1"), ("false", "none")])
def test_rescaling_is_that_of_mergekit(written: str, meant: str, read: Any) -> None:
    text = "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: dare_ties\nbase_model: b\n"
    assert read(text + f"parameters: {{rescale: {written}}}").merge.rescale == meant


@pytest.mark.parametrize("source", ["base", "base.gguf", "model:base.gguf"])
def test_the_tokenizer_of_the_base(source: str, read: Any) -> None:
    text = TIES.replace("dtype: float16", "")
    assert read(text + f"tokenizer_source: {source}").merge.tokenizer == "base"
    assert read(text + f"tokenizer: {{source: {source}}}").merge.tokenizer == "base"


def test_our_own_sections_may_stand_beside(read: Any) -> None:
    config = read(PASSTHROUGH + "output: {path: o.gguf, type: q8_0}\nrun: {threads: 1}\ndtype: bfloat16\n")
    assert (config.output.path, config.output.type, config.run.threads) == ("o.gguf", "q8_0", 1)


STOCK = "merge_method: model_stock\nbase_model: base\n"


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (
            STOCK + "models: [{model: a, parameters: {weight: 1}}, {model: b}]",
            "models[0].parameters.weight has no effect with model_stock at this place",
        ),
        (
            STOCK + "models: [{model: a}, {model: b}, {model: base, parameters: {weight: 1}}]",
            "models[2].parameters has no effect: this is the base",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1, normalize: true}}, {model: b}]",
            "models[0].parameters.normalize has no effect with linear at this place",
        ),
    ],
)
def test_what_mergekit_passes_over_is_said(text: str, notice: str, read: Any) -> None:
    assert read(text).notices == (notice,)


def test_what_is_as_it_is_here_may_be_written(read: Any) -> None:
    text = "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: 10, tol: 1e-5}\n"
    assert read(text).notices == ()


WRONG: list[tuple[str, str]] = [
    (TIES.replace("ties", "tys"), 'm.yaml:14:15: merge_method: value "tys"; must be one of linear'),
    (TIES.replace("merge_method: ties", ""), "merge_method: required key is missing"),
    (
        TIES.replace("base_model: base.gguf", ""),
        "base_model: ties works on what the models changed against a base, and none is named; "
        "set base_model: base.gguf",
    ),
    (
        TIES.replace("weight: 1.0", "weigth: 1.0"),
        "m.yaml:6:42: models[1].parameters.weigth: unknown parameter; did you mean weight?",
    ),
    (
        TIES.replace("0.33", "3.3"),
        "m.yaml:9:16: models[2].parameters.density: value 3.3; must be a number greater than 0",
    ),
    (
        TIES.replace("float16", "float61"),
        "dtype: value 'float61'; must be one of float32, float16, bfloat16; did you mean float16?",
    ),
    (TIES.replace("float16", "int8"), "dtype: value 'int8'; must be one of float32, float16, bfloat16"),
    (TIES.replace("  - model: b.gguf", "  - path: b.gguf"), "models[2].path: unknown key"),
    (
        TIES.replace("  - model: b.gguf", "  - model: org/b"),
        'models[2].model: value "org/b"; there is no such folder, and nothing is downloaded; hf download org/b',
    ),
    (
        TIES.replace("  - model: b.gguf", "  - model: {model: {path: b}}"),
        "models[2].model: must be text; write PATH, or PATH+ADAPTER",
    ),
    (TIES + "chat_template: auto", "chat_template: is not available; the result has the chat template"),
    (TIES + "tokenizer: {source: union, tokens: {x: y}}", "tokenizer.tokens: is not available"),
    (TIES + "tokenizer: {source: union, pad_to_multiple_of: 8}", "tokenizer.pad_to_multiple_of: is not available"),
    (
        TIES + "tokenizer_source: b.gguf",
        "tokenizer_source: value 'b.gguf'; the tokenizer of a single model is that of the base",
    ),
    (TIES + "tokenizer: union", "tokenizer: must be a mapping; such as {source: union}"),
    (TIES + "modules: {text: {models: []}, vision: {models: []}}", "modules: a GGUF language model is one module"),
    (TIES + "merge_methods: x", "merge_methods: unknown key; did you mean merge_method?"),
    (
        SLERP.replace("layer_range: [0, 32]}", "layer_range: [32, 0]}"),
        "slices[0].sources[0].layer_range: value [32, 0]; must be layers in their order",
    ),
    (SLERP.replace(", layer_range: [0, 32]", ""), "slices[0].sources[0].layer_range: required key is missing"),
    (SLERP.replace("- sources:", "- sorces:"), "slices[0].sorces: unknown key; did you mean sources?"),
    (
        PASSTHROUGH.replace("- sources:", "- residual_weight: 1\n  sources:"),
        "slices[0].residual_weight: is not available; slices have no residual here",
    ),
    (
        "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: 50}",
        "parameters.max_iter: is always 10 here; remove it",
    ),
    (STOCK + "models: [{model: a}, {model: b}]\nparameters: {filter_wise: true}", "filter_wise: is always false here"),
    ("merge_method: linear\nmodels: [a, b]", "models[0]: must be a mapping; write {model: PATH}"),
    ("merge_method: linear\nmodels: a", 'models: value "a"; must be a list of models'),
    (
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: 3",
        "parameters: must be a mapping; such as {weight: 0.5}",
    ),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_what_is_wrong_is_named_as_the_file_has_it(text: str, says: str, read: Any) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read(text)
    found = [str(problem) for problem in caught.value.problems]
    assert any(says in one for one in found), "\n".join(found)
