"""Tensors that are made in one way are one line of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from entrenar_cli.merge_groups import groups_of, short_names
from entrenar_cli.merge_summary import merged_facts, merging_text
from entrenar_cli.merge_view import report_sections
from entrenar_cli.sections import Table
from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.events import Merged, Merging
from entrenar_core.merge.plan import plan_merge
from entrenar_core.stages.merge import MergeResult
from tests.merge.memory_models import merge_of, opened


def lines(config: MergeConfig) -> list[tuple[str, int, str, str]]:
    groups = groups_of(plan_merge(config, opened(config)).tensors)
    names = [one.name for one in config.files]
    return [(one.place, len(one.tensors), one.made_of(names), one.parameters()) for one in groups]


def test_layers_and_the_rest_are_two_groups() -> None:
    config = merge_of("slerp", ["a.gguf", "b.gguf"], t=[0.25, 0.75])
    assert lines(config) == [
        ("layers 0 to 2", 9, "slerp of a.gguf, b.gguf", "t 0.25 to 0.75"),
        ("other tensors", 3, "slerp of a.gguf, b.gguf", "t 0.25"),
    ]


def test_each_model_has_its_own_range_where_they_differ() -> None:
    models = [{"path": "a.gguf", "weight": [0, 1]}, "b.gguf"]
    (first, _) = lines(merge_of("linear", models, normalize=False))
    assert first == ("layers 0 to 2", 9, "linear of a.gguf, b.gguf", "weight 0 to 1 / 1, normalize false")


def test_slices_name_the_layers_that_they_take() -> None:
    sources = [("a.gguf", 0, 2), ("b.gguf", 1, 3), ("a.gguf", 0, 1)]
    slices = [{"sources": [{"path": path, "layers": [first, end]}]} for path, first, end in sources]
    found = lines(merge_of("passthrough", None, slices=slices))
    assert [one[:3] for one in found] == [
        ("layers 0 to 1", 6, "passthrough of a.gguf"),
        ("layers 2 to 3", 6, "passthrough of b.gguf layers 1 to 2"),
        ("layer 4", 3, "passthrough of a.gguf layer 0"),
        ("other tensors", 3, "passthrough of a.gguf"),
    ]


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["/models/base.gguf", "a.gguf"], ["base.gguf", "a.gguf"]),
        (["runs/a/model.gguf", "runs/b/model.gguf"], ["a/model.gguf", "b/model.gguf"]),
        (["/m/base.gguf", "/m/base.gguf+runs/a", "/m/base.gguf+runs/b"], ["base.gguf", "base.gguf+a", "base.gguf+b"]),
        (["a/m.gguf", "/a/m.gguf"], ["a/m.gguf", "/a/m.gguf"]),
        (["../m", "/m"], ["../m", "/m"]),
    ],
)
def test_models_have_the_shortest_names_that_tell_them_apart(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


def test_progress_and_result_in_words() -> None:
    assert merging_text(Merging(7, 90, 1200, 2010)) == "pieces  1,200 of 2,010 tensors"
    event = Merged(Path("o.gguf"), "linear", 3, 6 << 20, 2 << 20, {"F16": 12, "F32": 5}, 2.0, 300 << 20)
    assert merged_facts(event) == [
        ("merge", "linear of 3 models"),
        ("size", "6.0 MiB to 2.0 MiB"),
        ("types", "F16 12, F32 5"),
        ("time", "2.0 s (3.0 MiB/s), peak memory 300.0 MiB"),
    ]
    of_one = merged_facts(replace(event, method="ties", models=1, over_base=True))
    assert of_one[0] == ("merge", "ties of 1 model over a base")


def test_of_what_did_not_change_nothing_is_kept() -> None:
    tensor = {"name": "x", "norms": [0.0, 2.0], "merged_norm": 0.5, "sign_agreement": None, "kept": [0.0, 0.25]}
    summary = Merged(Path("o.gguf"), "ties", 2, 1, 1, {}, 1.0, 1, over_base=True)
    [table] = report_sections(MergeResult(summary, {}, [{**tensor, "cosines": [None, 1.0]}]))
    assert isinstance(table, Table)
    assert table.rows == [["x", "0 / 2", "0.5", "-", "- / 25 %", "- / 1.00"]]
