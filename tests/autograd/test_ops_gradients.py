"""Every op's gradient against finite differences in float64, with random upstream gradients."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.gradcheck import check_gradients
from entrenar_core.backend.reference import ReferenceBackend
from tests.autograd.op_cases import op_cases

BACKEND = ReferenceBackend(np.float64)
CASES = op_cases(BACKEND)


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_difference(name: str) -> None:
    function, inputs = CASES[name]
    assert check_gradients(function, inputs, BACKEND) < 1e-5
