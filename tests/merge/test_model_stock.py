"""Model Stock: how far it goes for known angles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import changes_merged, floats, merged, merged_in_pieces


def test_changes_at_right_angles_say_nothing_in_common() -> None:
    base = floats(1, 2)
    assert merged("model_stock", [base + floats(3, 0), base + floats(0, 4)], base).tolist() == [1, 2]


def test_changes_in_one_direction_are_averaged() -> None:
    np.testing.assert_allclose(changes_merged("model_stock", [floats(3, 0), floats(5, 0)]), [4, 0], rtol=1e-6)


def test_two_changes_at_sixty_degrees_go_two_thirds_of_the_way() -> None:
    """2·0.5 / (1 + 0.5); for three models at cosines of 1/2, 1/2 and -1/2: 3·(1/6) / (1 + 2/6) = 3/8."""
    first, second = floats(2, 0), floats(1, np.sqrt(3))
    np.testing.assert_allclose(changes_merged("model_stock", [first, second]), (first + second) / 3, rtol=1e-6)
    third = floats(-1, np.sqrt(3))
    found = changes_merged("model_stock", [first, second, third])
    np.testing.assert_allclose(found, (first + second + third) / 8, rtol=1e-5, atol=1e-7)


def test_a_model_that_equals_the_base_has_a_right_angle_to_all() -> None:
    assert changes_merged("model_stock", [floats(1, 0), floats(0, 0)]).tolist() == [0, 0]


def test_opposite_changes_leave_the_base() -> None:
    assert changes_merged("model_stock", [floats(1, 2), floats(-1, -2)]).tolist() == [0, 0]


def test_it_needs_a_base() -> None:
    with pytest.raises(ValueError, match="measured against a base"):
        merged("model_stock", [floats(1, 2), floats(2, 1)])


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 5), rows=st.integers(1, 5), data=st.data())
def test_it_is_the_formula_in_any_order_and_however_it_is_cut(
    seed: int, n_models: int, rows: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    base, *models = rng.standard_normal((1 + n_models, 5, 4)).astype(np.float32)
    models = [model + 1 for model in models]
    changes = np.array([(model - base).reshape(-1) for model in models], np.float64)
    units = changes / np.linalg.norm(changes, axis=1, keepdims=True)
    cosine = ((units @ units.T).sum() - n_models) / (n_models * (n_models - 1))
    way = n_models * cosine / (1 + (n_models - 1) * cosine)
    whole = merged("model_stock", models, base)
    np.testing.assert_allclose(whole, way * np.mean(models, axis=0) + (1 - way) * base, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(merged_in_pieces("model_stock", models, base, rows=rows, order=rng), whole)
    order = data.draw(st.permutations(range(n_models)))
    np.testing.assert_allclose(merged("model_stock", [models[i] for i in order], base), whole, rtol=1e-4, atol=1e-5)
