"""Misuse of ops: shapes that do not fit are refused with both shapes in the message, never stretched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.autograd.ops import activation, attention, loss, low_rank, matmul, norm, rope, shape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError

BACKEND = ReferenceBackend(np.float64)
LABELS = np.zeros(4, np.int32)
LORA = low_rank.LowRankParams(1.0)


def t(*sizes: int) -> Tensor:
    return Tensor(np.ones(sizes), BACKEND, name="weight")


def handle(*sizes: int) -> object:
    return BACKEND.prepare_weight(np.ones(sizes))


def attend(q: Tensor, k: Tensor, v: Tensor, lower: tuple[int, int] = (2, 3), q_offset: int = 0) -> Tensor:
    return attention.attention(q, k, v, np.zeros(lower, np.int32), AttentionParams(1.0, q_offset=q_offset))


def turn(x: Tensor, cos: tuple[int, ...], sin: tuple[int, ...]) -> Tensor:
    return rope.rope(x, np.ones(cos), np.ones(sin), "halves")


MISUSES: dict[str, tuple[Callable[[], Tensor], str]] = {
    "matmul inner": (lambda: matmul.matmul(t(2, 3), t(2, 3)), r"matmul of shapes \(2, 3\) and \(2, 3\): the inner"),
    "matmul vector": (lambda: matmul.matmul(t(3), t(3, 2)), r"matmul of shapes \(3,\) and \(3, 2\)"),
    "matmul by vector": (lambda: matmul.matmul(t(2, 3), t(3)), r"matmul of shapes \(2, 3\) and \(3,\)"),
    "linear": (lambda: matmul.linear(t(2, 3), t(3, 2)), r"input of shape \(2, 3\) for a weight of shape \(3, 2\)"),
    "linear handle": (lambda: matmul.linear(t(2, 3), handle(3, 2)), r"\(2, 3\) for a weight of shape \(3, 2\)"),
    "linear vector": (lambda: matmul.linear(t(2, 3), t(3)), r"\(2, 3\) for a weight of shape \(3,\)"),
    "linear scalar": (lambda: matmul.linear(t(), t(2, 3)), r"input of shape \(\) for"),
    "linear bias": (lambda: matmul.linear(t(2, 3), t(4, 3), t(1)), r"linear: bias of shape \(1,\) for 4 outputs"),
    "linear bias rows": (
        lambda: matmul.linear(t(2, 3), handle(4, 3), t(2, 4)),
        r"bias of shape \(2, 4\) for 4 outputs",
    ),
    "lora input": (
        lambda: low_rank.lora_linear(t(2, 5), handle(4, 3), t(2, 3), t(4, 2), None, LORA),
        r"lora_linear: input \(2, 5\), weight \(4, 3\), A \(2, 3\), B \(4, 2\) do not fit",
    ),
    "lora A": (lambda: low_rank.lora_linear(t(2, 3), handle(4, 3), t(2, 4), t(4, 2), None, LORA), r"A \(2, 4\)"),
    "lora B": (lambda: low_rank.lora_linear(t(2, 3), handle(4, 3), t(2, 3), t(2, 4), None, LORA), r"B \(2, 4\)"),
    "lora rank": (lambda: low_rank.lora_linear(t(2, 3), handle(4, 3), t(2, 3), t(4, 1), None, LORA), "do not fit"),
    "lora bias": (
        lambda: low_rank.lora_linear(t(2, 3), handle(4, 3), t(2, 3), t(4, 2), t(3), LORA),
        r"lora_linear: bias of shape \(3,\) for 4 outputs",
    ),
    "rms_norm": (
        lambda: norm.rms_norm(t(2, 3), t(1)),
        r"rms_norm: input of shape \(2, 3\) for 'weight' of shape \(1,\)",
    ),
    "layer_norm gamma": (lambda: norm.layer_norm(t(2, 3), t(2, 3), t(3)), r"'weight' of shape \(2, 3\)"),
    "layer_norm beta": (lambda: norm.layer_norm(t(2, 3), t(3), t()), r"layer_norm: .* for 'weight' of shape \(\)"),
    "swiglu": (lambda: activation.swiglu(t(2, 3), t(1, 3)), r"gate \(2, 3\) and up \(1, 3\) must have one shape"),
    "rope axes": (lambda: turn(t(3, 2, 4), (3, 2), (3, 2)), r"rope: x \(3, 2, 4\) with cos \(3, 2\)"),
    "rope time": (lambda: turn(t(1, 3, 2, 4), (1, 1, 2), (1, 1, 2)), r"cos \(1, 1, 2\) and sin \(1, 1, 2\) does not"),
    "rope sin": (lambda: turn(t(1, 3, 2, 4), (1, 3, 2), (1, 3, 1)), r"cos \(1, 3, 2\) and sin \(1, 3, 1\)"),
    "rope pairs": (lambda: turn(t(1, 3, 2, 4), (1, 3, 3), (1, 3, 3)), "does not fit"),
    "attention axes": (lambda: attend(t(2, 3, 4), t(2, 3, 4), t(2, 3, 4)), r"attention: q \(2, 3, 4\), k \(2, 3, 4\)"),
    "attention key axes": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 4), t(2, 3, 4)), r"k \(2, 3, 4\)"),
    "attention batch": (lambda: attend(t(2, 3, 4, 5), t(1, 3, 4, 5), t(1, 3, 4, 5)), r"k \(1, 3, 4, 5\)"),
    "attention values": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 4, 5), t(2, 3, 4, 6)), r"v \(2, 3, 4, 6\)"),
    "attention width": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 4, 6), t(2, 3, 4, 6)), "do not fit"),
    "attention heads": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 3, 5), t(2, 3, 3, 5)), "do not fit"),
    "attention lower": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 2, 5), t(2, 3, 2, 5), (2, 1)), r"lower \(2, 1\)"),
    "attention few keys": (
        lambda: attend(t(2, 3, 4, 5), t(2, 3, 2, 5), t(2, 3, 2, 5), q_offset=1),
        "do not fit with the first query at key 1",
    ),
    "attention offset": (lambda: attend(t(2, 3, 4, 5), t(2, 3, 2, 5), t(2, 3, 2, 5), q_offset=-1), "at key -1"),
    "cross_entropy rows": (lambda: loss.cross_entropy(t(3, 5), LABELS, 1.0), r"rows of shape \(3, 5\) but labels of"),
    "cross_entropy axes": (lambda: loss.cross_entropy(t(4, 3, 5), LABELS, 1.0), r"shape \(4, 3, 5\) but labels of"),
    "fused rows": (lambda: loss.linear_cross_entropy(t(3, 5), t(7, 5), LABELS, 1.0), r"labels of shape \(4,\)"),
    "fused axes": (lambda: loss.linear_cross_entropy(t(4, 1, 5), t(7, 5), LABELS, 1.0), r"shape \(4, 1, 5\)"),
    "fused width": (
        lambda: loss.linear_cross_entropy(t(4, 5), t(7, 6), LABELS, 1.0),
        r"hidden states \(4, 5\) for an output matrix \(7, 6\)",
    ),
    "fused width handle": (lambda: loss.linear_cross_entropy(t(4, 5), handle(7, 6), LABELS, 1.0), r"\(7, 6\)"),
    "squared error": (
        lambda: loss.squared_error(t(3), np.ones(1), 1.0),
        r"squared error: predictions \(3,\) but targets \(1,\)",
    ),
    "slice by ids": (lambda: shape.slice_(t(3), np.array([0, 0])), r"slice: array\(\[0, 0\]\) is no integer, slice or"),
    "slice by list": (lambda: shape.slice_(t(3, 2), ([0, 0], 1)), r"slice: \[0, 0\] is no integer"),
    "slice by mask": (lambda: shape.slice_(t(3), True), "slice: True is no integer"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_an_error_that_shows_what_does_not_fit(name: str) -> None:
    misuse, message = MISUSES[name]
    with pytest.raises(AutogradError, match=message):
        misuse()


def test_one_query_may_see_more_keys_than_there_are_queries() -> None:
    out = attend(t(2, 1, 4, 5), t(2, 3, 2, 5), t(2, 3, 2, 5), (2, 1), q_offset=2)
    assert out.shape == (2, 1, 4, 5)
