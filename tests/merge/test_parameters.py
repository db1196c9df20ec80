"""What a parameter is for one tensor: numbers, gradients, filters, and the place that is asked first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.config.merge_file import Merging
from entrenar_core.config.merge_models import MergeModel, Slice
from entrenar_core.config.merge_parameters import Filtered
from entrenar_core.merge.parameters import along, filter_name, layer_fraction, look_up, look_up_plain, resolved

NUMBERS = st.lists(st.floats(-10, 10), min_size=1, max_size=6)
NAME = "model.layers.0.mlp.down_proj.weight"


@given(NUMBERS, st.floats(0, 1))
def test_a_gradient_is_linear_between_its_numbers(numbers: list[float], t: float) -> None:
    expected = np.interp(t, np.linspace(0, 1, len(numbers)), numbers) if len(numbers) > 1 else numbers[0]
    assert along(tuple(numbers), t) == pytest.approx(expected, abs=1e-9)


@given(NUMBERS)
def test_the_first_layer_has_the_first_number_and_the_last_the_last(numbers: list[float]) -> None:
    ends = [along(tuple(numbers), layer_fraction(layer, 7)) for layer in (0, 6)]
    assert ends == pytest.approx([numbers[0], numbers[-1]])


def test_an_only_layer_is_the_last() -> None:
    assert [layer_fraction(layer, 3) for layer in range(3)] == [0, 0.5, 1]
    assert layer_fraction(0, 1) == 1


def test_numbers_are_the_same_for_every_tensor() -> None:
    assert resolved(0.25, NAME, 0.7) == 0.25
    assert resolved(None, NAME, 0.7) is None


@pytest.mark.parametrize(
    ("filters", "value"),
    [
        ((Filtered("mlp", 1.0), Filtered(None, 2.0)), 1.0),
        ((Filtered("self_attn", 1.0), Filtered(None, 2.0)), 2.0),
        ((Filtered("self_attn", 1.0), Filtered("*", 2.0)), 2.0),
        ((Filtered(None, 3.0), Filtered("mlp", 1.0)), 3.0),
        ((Filtered("mlp", (0.0, 1.0)),), 0.75),
        ((Filtered("self_attn", 1.0),), None),
    ],
)
def test_the_first_filter_in_the_name_counts(filters: tuple[Filtered, ...], value: float | None) -> None:
    assert resolved(filters, NAME, 0.75) == value


def test_the_nearest_place_counts() -> None:
    source = MergeModel(path="a", weight=0.1)
    part = Slice.model_validate({"sources": [{"path": "a", "layers": [0, 1]}], "weight": 0.2, "t": 0.3})
    merge = Merging.model_validate({"method": "linear", "models": ["a", "b"], "weight": 0.4})
    assert look_up("weight", [source, part, merge], NAME, 0, 1.0) == 0.1
    assert look_up("weight", [part, merge], NAME, 0, 1.0) == 0.2
    assert look_up("weight", [merge], NAME, 0, 1.0) == 0.4
    assert look_up("density", [source, part, merge], NAME, 0, 1.0) == 1.0


def test_where_no_filter_matches_the_next_place_is_asked() -> None:
    source = MergeModel(path="a", weight=(Filtered("self_attn", 0.1),))
    merge = Merging.model_validate({"method": "linear", "models": ["a", "b"], "weight": 0.4})
    assert look_up("weight", [source, merge], NAME, 0, 1.0) == 0.4
    assert look_up("weight", [source, merge], NAME.replace("mlp", "self_attn"), 0, 1.0) == 0.1


def test_flags_are_looked_up_too() -> None:
    part = Slice.model_validate({"sources": [{"path": "a", "layers": [0, 1]}], "normalize": False})
    merge = Merging.model_validate({"method": "linear", "models": ["a", "b"], "normalize": True})
    assert look_up_plain("normalize", [part, merge]) is False
    assert look_up_plain("normalize", [merge]) is True
    assert look_up_plain("rescale", [part, merge]) is None


@pytest.mark.parametrize(
    ("name", "architecture", "found"),
    [
        ("blk.3.ffn_down.weight", "llama", "model.layers.3.mlp.down_proj.weight"),
        ("token_embd.weight", "qwen2", "model.embed_tokens.weight"),
        ("rope_freqs.weight", "llama", "rope_freqs.weight"),
        ("blk.3.ffn_down.weight", "gemma2", "blk.3.ffn_down.weight"),
        ("blk.3.ffn_gate_exps.weight", "llama", "blk.3.ffn_gate_exps.weight"),
    ],
)
def test_filters_look_into_names_of_hugging_face_where_they_are_known(name: str, architecture: str, found: str) -> None:
    assert filter_name(name, architecture) == found
