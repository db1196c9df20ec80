"""The configuration of `entrenar merge`: a file, options, options over a file, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.load import load_config
from entrenar_core.config.merge_file import MergeConfig, merge_config
from entrenar_core.config.merge_options import ADAPTERS, MODELS
from entrenar_core.config.merge_parameters import Filtered
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.quantize_file import Option, quantize_config
from entrenar_core.errors import ConfigError

TIES = "merge: {method: TIES, base: base.gguf, models: [a.gguf, b.gguf]}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        Path("m.yaml").write_text(text)
        return Path("m.yaml")

    return write_file


def problems(file: Path | None, *options: Option) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        merge_config(file, options)
    return [str(problem) for problem in caught.value.problems]


def models(*names: str) -> Option:
    return Option("MODEL", MODELS, list(names))


def option(name: str, key: str, value: object) -> Option:
    return Option(name, ("merge", key), value)


METHOD, BASE = option("--method", "method", "ties"), option("--base", "base", "base.gguf")


def names_of(config: MergeConfig) -> list[str]:
    return [one.name for one in config.merge.models or ()]


def test_a_file_names_the_models_and_their_parameters(write: Any) -> None:
    text = """
merge:
  method: dare_ties
  base: {path: base.gguf, adapter: lora}
  models:
    - a.gguf
    - {path: b.gguf, adapter: other, weight: -0.5, density: [0.2, 0.8]}
    - {path: c.gguf, weight: [{filter: mlp, value: [0, 1]}, {value: 0.3}]}
  lambda: 0.9
  rescale: density
  seed: 3
output: {path: out.gguf, type: Q4_K_M, report: r.json}
run: {memory: 1GiB, threads: 2}
"""
    config = merge_config(write(text), [])
    merge = config.merge
    assert (merge.method, merge.lambda_, merge.rescale, merge.seed) == ("dare_ties", 0.9, "density", 3)
    assert names_of(config) == ["a.gguf", "b.gguf+other", "c.gguf"]
    assert [one.name for one in config.files] == ["base.gguf+lora", "a.gguf", "b.gguf+other", "c.gguf"]
    assert merge.models is not None
    assert (merge.models[1].weight, merge.models[1].density) == (-0.5, (0.2, 0.8))
    assert merge.models[2].weight == (Filtered("mlp", (0.0, 1.0)), Filtered(None, 0.3))
    assert (config.output.type, config.output.format, config.output.report) == ("q4_k_m", "gguf", "r.json")
    assert (config.run.memory, config.run.threads, config.notices) == (2**30, 2, ())


def test_equal_files_are_opened_once_however_they_are_written(write: Any) -> None:
    absolute = os.path.abspath("a.gguf")
    text = f"merge: {{method: linear, base: a.gguf, models: [./a.gguf, b.gguf, {absolute}, a.gguf+lora]}}"
    assert [one.name for one in merge_config(write(text), []).files] == ["a.gguf", "b.gguf", "a.gguf+lora"]


def test_a_file_with_a_plus_in_its_name_is_that_file(write: Any) -> None:
    Path("a+b.gguf").write_bytes(b"")
    config = merge_config(write("merge: {method: linear, models: [a+b.gguf, a+c.gguf]}"), [])
    assert [(one.path, one.adapter) for one in config.files] == [("a+b.gguf", None), ("a", "c.gguf")]


def test_a_path_in_a_mapping_may_name_an_adapter_too(write: Any) -> None:
    base, models = "{path: base.gguf+x}", "[{path: a.gguf+y, weight: 2}, {path: b+c, adapter: z}, base.gguf+x]"
    config = merge_config(write(f"merge: {{method: task_arithmetic, base: {base}, models: {models}}}"), [])
    assert [one.name for one in config.files] == ["base.gguf+x", "a.gguf+y", "b+c+z"]
    sources = "[{path: a.gguf+y, layers: [0, 2]}]"
    config = merge_config(write(f"merge: {{method: passthrough, slices: [{{sources: {sources}}}]}}"), [])
    assert [(one.path, one.adapter) for one in config.files] == [("a.gguf", "y")]


def test_options_alone_make_a_configuration() -> None:
    weights, density = option("--weight", "weight", [0.5, -0.25]), option("--density", "density", [0.2])
    config = merge_config(None, [models("a.gguf", "b.gguf+lora"), BASE, METHOD, weights, density])
    assert names_of(config) == ["a.gguf", "b.gguf+lora"]
    assert [one.weight for one in config.merge.models or ()] == [0.5, -0.25]
    assert (config.merge.density, config.merge.method) == (0.2, "ties")


def test_adapters_are_models_over_the_base() -> None:
    adapters = Option("--adapter", ADAPTERS, ["x", "y.gguf"])
    weights = option("--weight", "weight", [1.0, 2.0, 3.0])
    config = merge_config(None, [models("a.gguf"), BASE, METHOD, adapters, weights])
    assert names_of(config) == ["a.gguf", "base.gguf+x", "base.gguf+y.gguf"]
    assert [one.weight for one in config.merge.models or ()] == [1, 2, 3]
    without = problems(None, models("a.gguf"), METHOD, adapters)
    [said] = without
    assert said.startswith("--adapter: needs a base model without an adapter")


def test_options_lie_over_a_file(write: Any) -> None:
    file = write(
        "merge: {method: ties, base: base.gguf, density: 0.5,\n"
        "  models: [{path: a.gguf, density: 0.1, weight: 2}, b.gguf]}\n"
    )
    once = merge_config(file, [option("--density", "density", [0.3])]).merge
    assert once.models is not None
    assert (once.density, [one.density for one in once.models]) == (0.3, [None, None])
    each = merge_config(file, [option("--weight", "weight", [0.5, 0.6])]).merge
    assert [one.weight for one in each.models or ()] == [0.5, 0.6]
    assert [one.density for one in each.models or ()] == [0.1, None]
    changed = merge_config(file, [option("--set merge.method", "method", "dare_ties"), option("--seed", "seed", 4)])
    assert (changed.merge.method, changed.merge.seed) == ("dare_ties", 4)


def test_an_option_for_all_models_reaches_those_of_slices(write: Any) -> None:
    source = "{path: a.gguf, layers: [0, 1], scale: 2}"
    file = write(f"merge: {{method: passthrough, slices: [{{scale: 3, sources: [{source}]}}]}}")
    [found] = problems(file, option("--weight", "weight", [0.5, 0.5]))
    assert found.startswith("--weight: is given 2 times, and there are 0 models; set it in the slices")
    linear = write(
        "merge: {method: linear, slices: [{weight: 3, sources: [{path: a, layers: [0, 1], weight: 4}, "
        "{path: b, layers: [0, 1]}]}]}"
    )
    merge = merge_config(linear, [option("--weight", "weight", [0.5])]).merge
    assert merge.slices is not None
    assert (merge.weight, merge.slices[0].weight, merge.slices[0].sources[0].weight) == (0.5, None, None)


def test_the_number_of_weights_is_one_or_that_of_the_models() -> None:
    weights = option("--weight", "weight", [0.5, 0.5, 0.5])
    [found] = problems(None, models("a.gguf", "b.gguf"), BASE, METHOD, weights)
    assert found == (
        "--weight: is given 3 times, and there are 2 models; give it once for all models, or once for each"
    )
    [found] = problems(None, models("a.gguf"), BASE, METHOD, weights)
    assert found.startswith("--weight: is given 3 times, and there is 1 model; give it once")


WRONG: Mapping[str, tuple[str, str]] = {
    "no models": ("method: ties, base: b", "merge.models: required key is missing"),
    "no base": (
        "method: ties, models: [a]",
        "m.yaml:1:1: merge.base: ties works on what the models changed against a base, and none is named; "
        "set base: base.gguf",
    ),
    "an unknown method": (
        "method: tiez, base: b, models: [a]",
        'm.yaml:1:17: merge.method: value "tiez"; must be one of linear, slerp',
    ),
    "one model": (
        "method: linear, models: [a]",
        "m.yaml:1:25: merge.models: linear takes at least 2 models, and 1 is named; name more models",
    ),
    "the base alone": (
        "method: ties, base: b, models: [b]",
        "merge.models: ties takes at least 1 model beside the base, and none are named; name more models",
    ),
    "three models for two": (
        "method: slerp, base: c, models: [a, b]",
        "merge.models: slerp takes 2 models, and 3 are named; remove some, or use iterative_slerp",
    ),
    "two models in a passthrough": (
        "method: passthrough, models: [a, b]",
        "merge.models: passthrough takes 1 model, and 2 are named; remove some, or use slices",
    ),
    "a parameter of another method": (
        "method: linear, models: [a, {path: b, density: 0.5}], gamma: 0.1",
        "merge.models[1].density: has no meaning for linear; remove it; it is for ties, dare_linear",
    ),
    "a parameter of the base": (
        "method: ties, base: b, models: [a, {path: b, weight: 0.5}]",
        "merge.models[1].weight: has no meaning for the base, which ties subtracts; remove it",
    ),
    "a parameter of the tensor at a model": (
        "method: slerp, models: [a, {path: b, t: 0.5}]",
        "merge.models[1].t: unknown key; use merge.t",
    ),
    "no distance": ("method: nearswap, models: [a, b]", "merge.t: nearswap needs a distance"),
    "a density of nothing": (
        "method: ties, base: b, models: [a], density: 0",
        "merge.density: value 0; must be a number greater than 0 and of at most 1, a list of such numbers over",
    ),
    "a wrong number in a gradient": (
        "method: ties, base: b, models: [{path: a, density: [0.5, 1.5]}]",
        "merge.models[0].density: value [0.5, 1.5]; must be a number greater than 0",
    ),
    "a filter without a value": (
        "method: linear, models: [a, b], weight: [{filter: mlp}]",
        "merge.weight: value [{\"filter\": \"mlp\"}]; must be a number, a list of such numbers",
    ),
    "models and slices": (
        "method: passthrough, models: [a], slices: [{sources: [{path: a, layers: [0, 1]}]}]",
        "merge.slices: cannot go together with merge.models; keep one of them",
    ),
    "layers backwards": (
        "method: passthrough, slices: [{sources: [{path: a, layers: [4, 2]}]}]",
        "merge.slices[0].sources[0].layers: value [4, 2]; must be layers in their order, and [4, 2] has none",
    ),
    "negative layers": (
        "method: passthrough, slices: [{sources: [{path: a, layers: [-1, 2]}]}]",
        "sources[0].layers: value [-1, 2]; must be the first layer and the one after the last, such as [0, 16]",
    ),
    "sources of different lengths": (
        "method: linear, slices: [{sources: [{path: a, layers: [0, 2]}, {path: b, layers: [0, 3]}]}]",
        "merge.slices[0].sources[1].layers: has 3 layers, and the first source of the slice 2",
    ),
    "an empty slice": (
        "method: passthrough, slices: [{sources: []}]",
        "merge.slices[0].sources: value []; must be a list such as [{path: a.gguf, layers: [0, 16]}]",
    ),
    "a slice that contains itself": ("method: passthrough, slices: &all [*all]", "an alias contains itself"),
    "a misspelt key": ("method: ties, base: b, models: [{pth: a}]", "merge.models[0].pth: unknown key; did you mean"),
    "a key of mergekit": ("method: ties, base_model: b, models: [a]", "merge.base_model: unknown key; use merge.base"),
    "a name of the hub": (
        "method: ties, base: meta-llama/Llama-3.2-1B, models: [a]",
        'm.yaml:1:29: merge.base: value "meta-llama/Llama-3.2-1B"; there is no such folder, and nothing is '
        "downloaded; hf download meta-llama/Llama-3.2-1B --local-dir meta-llama/Llama-3.2-1B",
    ),
    "an adapter of the hub": (
        "method: linear, models: [a, b+some-one/lora_x]",
        "merge.models[1]: value \"some-one/lora_x\"; there is no such folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named_with_their_place_and_what_to_do(name: str, write: Any) -> None:
    section, says = WRONG[name]
    found = problems(write(f"merge: {{{section}}}\n"))
    assert any(says in one for one in found), "\n".join(found)


def test_what_is_missing_in_a_folder_is_no_name_of_the_hub(write: Any) -> None:
    Path("models").mkdir()
    text = "merge: {method: linear, models: [models/a, models/b]}"
    assert names_of(merge_config(write(text), [])) == ["models/a", "models/b"]


def test_all_mistakes_are_reported_at_once(write: Any) -> None:
    text = "merge: {method: linear, models: [a], weight: x, gama: 1}\noutput: {typ: q4_0}\nrun: {threads: 0}\n"
    found = problems(write(text))
    assert [one.split(": ")[1] for one in found] == [
        "merge.models", "merge.weight", "merge.gama", "output.typ", "run.threads",
    ]  # fmt: skip


def test_a_safetensors_folder_holds_no_blocks(write: Any) -> None:
    [found] = problems(write(TIES + "output: {format: safetensors, type: q4_0}"))
    assert "output.type: q4_0 is a type of GGUF, and the format is safetensors; set type: f16 or bf16" in found
    assert merge_config(write(TIES + "output: {format: safetensors, type: bf16}"), []).output.type == "bf16"


def test_a_task_vector_needs_its_base(write: Any) -> None:
    [found] = problems(write("merge: {method: linear, models: [a, b]}\noutput: {task_vector: true}\n"))
    assert "output.task_vector: needs merge.base, which is subtracted; set merge.base" in found
    sliced = "merge: {method: passthrough, base: a, slices: [{sources: [{path: a, layers: [0, 1]}]}]}\n"
    [found] = problems(write(sliced + "output: {task_vector: true}\n"))
    assert "needs the layers of the base, and slices have others" in found


def test_messages_name_the_option() -> None:
    [found] = problems(None, models("a.gguf"), BASE, METHOD, option("--density", "density", [1.5]))
    assert found.startswith("--density: value 1.5; must be a number greater than 0")
    [found] = problems(None, models("a.gguf", "b.gguf"), BASE, METHOD, option("--density", "density", [0.5, 1.5]))
    assert found.startswith("--density: value 1.5; must be")
    [found] = problems(
        None, models("a.gguf", "b.gguf"), option("--method", "method", "linear"), option("--t", "t", 0.5)
    )
    assert found == "--t: has no meaning for linear; remove it; it is for slerp, nearswap"


def test_a_configuration_can_be_built_in_python_and_written_again() -> None:
    content = {"merge": {"method": "slerp", "models": ["a", "b"], "t": [0, 1]}}
    config = MergeConfig.model_validate(content)
    again = config.model_dump(mode="json", by_alias=True)
    assert again["merge"]["t"] == [0.0, 1.0]
    assert MergeConfig.model_validate(config.model_dump(by_alias=True)) == config


def test_files_of_other_commands_are_sent_there(write: Any) -> None:
    train = write("model: {path: a.gguf}\ndata: {train: a.parquet}\nmerge: {method: ties}\n")
    with pytest.raises(ConfigError, match=r"is for entrenar train .it has model, data") as caught:
        merge_config(train, [])
    assert (caught.value.hint or "").startswith("entrenar train m.yaml")
    quantize = write("model: {path: a.gguf}\nquantize: {type: q4_0}\noutput: {path: b.gguf}\n")
    with pytest.raises(ConfigError, match="is for entrenar quantize"):
        merge_config(quantize, [])


@pytest.mark.parametrize("text", [TIES, "merge_method: ties\nbase_model: b\nmodels: [{model: a}]\n"])
def test_other_commands_send_files_of_a_merge_here(text: str, write: Any) -> None:
    file = write(text)
    with pytest.raises(ConfigError, match="is for entrenar merge") as caught:
        load_config(file)
    assert caught.value.hint == "entrenar merge m.yaml"
    with pytest.raises(ConfigError, match="is for entrenar merge"):
        quantize_config(file, [])


def test_an_empty_file_is_told_the_sections_of_a_merge(write: Any) -> None:
    with pytest.raises(ConfigProblems, match="it needs at least the sections merge and output"):
        merge_config(write(""), [])
    with pytest.raises(ConfigProblems, match="start with merge: and output:"):
        merge_config(write("[a.gguf, b.gguf]"), [])
