"""One configuration from several files: which value wins, where it came from, and what cannot be put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from entrenar_core.config.compose import MAX_FILES, read_composed
from entrenar_core.config.load import load_config
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.resolved import resolved_yaml
from entrenar_core.config.root import Config

SMALLEST = "model: {path: base.gguf}\ndata: {train: a.parquet}\n"


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files; returns the path of the first."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / next(iter(files))


def load(folder: Path, files: Mapping[str, str], *overrides: str) -> Config:
    return load_config(write(folder, files), overrides)


def problems(folder: Path, files: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        load(folder, files)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_the_keys_of_a_file_lie_over_those_of_its_parent(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "base: parent.yaml\ndata: {batch_size: 2}\nlora: {rank: 4}",
            "parent.yaml": SMALLEST + "optimizer: {lr: 0.5}\nlora: {rank: 8, alpha: 32}",
        },
    )
    assert (config.data.train[0].path, config.data.batch_size) == ("a.parquet", 2)
    assert config.optimizer.lr == 0.5
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha) == (4, 32.0)


def test_included_files_lie_over_the_parent_and_over_each_other_in_their_order(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "include: [one.yaml, two.yaml]\nbase: parent.yaml\ntraining: {keep_last: 4}",
            "parent.yaml": SMALLEST + "training: {seed: 1, grad_accum: 1, log_every: 1, keep_last: 1}",
            "one.yaml": "training: {grad_accum: 2, log_every: 2, keep_last: 2}",
            "two.yaml": "training: {log_every: 3, keep_last: 3}",
        },
    )
    training = config.training
    assert (training.seed, training.grad_accum, training.log_every, training.keep_last) == (1, 2, 3, 4)


def test_lists_and_single_values_are_replaced(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "include: parent.yaml\ndata: {train: [b]}\nlora: {target_modules: [up_proj]}",
            "parent.yaml": "model: {path: b}\ndata: {train: [x, y]}\nlora: {target_modules: [q_proj, k_proj]}",
        },
    )
    assert [source.path for source in config.data.train] == ["b"]
    assert config.lora is not None
    assert config.lora.target_modules == ("up_proj",)


def test_null_takes_a_section_or_a_key_of_the_parent_away(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "base: parent.yaml\nlora: null\ntraining: {epochs: null, max_steps: 5}",
            "parent.yaml": SMALLEST + "lora: {rank: 4}\ntraining: {epochs: 3}",
        },
    )
    assert config.lora is None
    assert (config.training.epochs, config.training.max_steps) == (None, 5)


def test_names_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "base: parts/parent.yaml",
            "parts/parent.yaml": "include: more/data.yaml\nmodel: {path: base.gguf}",
            "parts/more/data.yaml": "base: ../seed.yaml\ndata: {train: a}",
            "parts/seed.yaml": "training: {seed: 7}",
        },
    )
    assert config.training.seed == 7
    assert config.model.path == "base.gguf"


def test_a_file_may_be_included_twice_on_different_ways(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {
            "child.yaml": "include: [one.yaml, two.yaml]",
            "one.yaml": "include: shared.yaml\nmodel: {path: b}",
            "two.yaml": "include: shared.yaml\ndata: {train: a}",
            "shared.yaml": "training: {seed: 7}",
        },
    )
    assert config.training.seed == 7


def test_names_of_files_may_hold_variables(tmp_path: Path) -> None:
    path = write(tmp_path, {"child.yaml": 'base: "${WHERE}.yaml"', "parent.yaml": SMALLEST})
    assert read_composed(path, {"WHERE": "parent"}).data["model"] == {"path": "base.gguf"}


def test_overrides_see_the_whole(tmp_path: Path) -> None:
    files = {"child.yaml": "base: parent.yaml", "parent.yaml": SMALLEST + "lora: {rank: 4}"}
    assert load(tmp_path, files, "lora=null").lora is None


def test_the_resolved_configuration_stands_alone(tmp_path: Path) -> None:
    files = {"child.yaml": "base: parent.yaml", "parent.yaml": SMALLEST}
    resolved = resolved_yaml(load(tmp_path, files))
    assert "base:" not in resolved
    assert "include:" not in resolved


def test_the_folder_of_the_run_is_named_after_the_file_that_was_named(tmp_path: Path) -> None:
    files = {"child.yaml": "base: parent.yaml", "parent.yaml": SMALLEST}
    assert load(tmp_path, files).training.output_dir == "runs/child"


def test_a_problem_names_the_file_its_value_came_from(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        {
            "child.yaml": "base: parent.yaml\nlora: {rank: 0}\noptimizer: {lr: 1}",
            "parent.yaml": SMALLEST + "lora: {rank: 8, alpha: -1}\noptimizer: {lr: 0}",
        },
    ) == [
        "child.yaml:2:14: lora.rank: value 0; must be a whole number of at least 1",
        "parent.yaml:3:24: lora.alpha: value -1; must be a number greater than 0",
    ]


def test_a_cycle_shows_its_links(tmp_path: Path) -> None:
    files = {"a.yaml": "base: b.yaml", "b.yaml": "x: 1\ninclude: [c.yaml]", "c.yaml": "base: ./b.yaml"}
    [problem] = problems(tmp_path, files)
    assert problem == (
        "c.yaml:1:7: base: the files include each other: a.yaml -> b.yaml -> c.yaml -> b.yaml; "
        "remove one of these links"
    )


def test_a_file_that_includes_itself_is_a_cycle(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, {"a.yaml": "include: a.yaml"})
    assert "a.yaml -> a.yaml" in problem


def test_a_link_that_leads_back_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").symlink_to("b.yaml")
    [problem] = problems(tmp_path, {"a.yaml": "base: b.yaml"})
    assert problem.startswith("a.yaml:1:7: base: ")
    assert "b.yaml is a link that leads back to itself; let the link lead to a YAML file" in problem


def test_all_missing_files_are_reported_each_at_its_name(tmp_path: Path) -> None:
    found = problems(
        tmp_path, {"a.yaml": "base: parant.yaml\ninclude: [gone.yaml, parent.yaml]", "parent.yaml": SMALLEST}
    )
    assert [line.split(": ")[0] for line in found] == ["a.yaml:1:7", "a.yaml:2:11"]
    assert "did you mean parent.yaml?" in found[0]


def test_broken_yaml_in_an_included_file_is_shown_there(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, {"a.yaml": "include: b.yaml", "b.yaml": "data: [1"})
    assert problem.startswith("b.yaml:1:7: this [ is not closed")


@pytest.mark.parametrize("content", ["- a\n", "", "just text"])
def test_an_included_file_must_be_a_mapping(tmp_path: Path, content: str) -> None:
    [problem] = problems(tmp_path, {"a.yaml": "include: b.yaml", "b.yaml": content})
    assert problem.startswith("b.yaml:1:1: ")


@pytest.mark.parametrize("line", ["base: [a.yaml]", "base: 1", "include: {a: b}", "include: [1]", "include: ['']"])
def test_what_is_not_the_path_of_a_file_is_refused(tmp_path: Path, line: str) -> None:
    [problem] = problems(tmp_path, {"a.yaml": line})
    assert "must be the path of a YAML file" in problem


def test_the_number_of_files_is_limited(tmp_path: Path) -> None:
    files = {f"{level}.yaml": f"include: [{level + 1}.yaml, {level + 1}.yaml]" for level in range(12)}
    found = problems(tmp_path, {**files, "12.yaml": SMALLEST})
    assert f"more than {MAX_FILES} files" in found[0]
