"""Anomaly mode: the first op that made a NaN or an infinity is named, with the place where it ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from entrenar_core.autograd.checkpoint import checkpoint
from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops import elementwise, embedding, loss, matmul, reduce
from entrenar_core.autograd.tape import NonFiniteError, Tape, scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError


class BrokenGradient(Op):
    """The identity, with a NaN in its gradient."""

    name = "broken"

    @staticmethod
    def forward(context: Context, x: np.ndarray) -> np.ndarray:
        return x * 1

    @staticmethod
    def backward(context: Context, grad: np.ndarray) -> Sequence[np.ndarray]:
        return [grad * np.nan]


def leaf(backend: ReferenceBackend, *values: float, name: str = "weight") -> Tensor:
    return Tensor(np.array(values, backend.dtype), backend, requires_grad=True, name=name)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_the_op_that_made_an_infinity_is_named_with_its_scope(double: ReferenceBackend) -> None:
    with Tape(detect_anomaly=True), scope("blk.2"), scope("ffn"):
        fine = elementwise.add(leaf(double, 0.0), leaf(double, 0.0))
        with pytest.raises(
            NonFiniteError, match=r"^op 'log' at blk.2.ffn made a NaN or infinity; its inputs were finite"
        ):
            elementwise.log(fine)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_op_at_the_top_level_is_named_so(double: ReferenceBackend) -> None:
    with Tape(detect_anomaly=True), pytest.raises(NonFiniteError, match="op 'sqrt' at top level"):
        elementwise.sqrt(leaf(double, -1.0))


@pytest.mark.parametrize(("name", "shown"), [("blk.0.attn_q.weight", "blk.0.attn_q.weight"), ("", "unnamed")])
def test_an_input_that_was_bad_already_is_blamed(name: str, shown: str, double: ReferenceBackend) -> None:
    good, bad = leaf(double, 1.0, name="good"), leaf(double, np.nan, name=name)
    with (
        Tape(detect_anomaly=True),
        pytest.raises(NonFiniteError, match=f"op 'add' .*; its input '{shown}' was not finite already"),
    ):
        elementwise.add(good, bad)


def test_frozen_ops_are_checked_too(double: ReferenceBackend) -> None:
    frozen = Tensor(np.array([np.inf]), double, name="frozen")
    with Tape(detect_anomaly=True), pytest.raises(NonFiniteError, match=r"its input 'frozen'"):
        elementwise.scale(frozen, 1.0)


def test_the_op_whose_gradient_is_bad_is_named_with_its_scope_and_input(double: ReferenceBackend) -> None:
    with Tape(detect_anomaly=True) as tape:
        with scope("blk.1"):
            broken = apply(BrokenGradient, leaf(double, 1.0, name="blk.1.weight"))
        total = reduce.sum_(elementwise.exp(broken))
    with pytest.raises(NonFiniteError, match=r"the gradient of op 'broken' at blk.1 for 'blk.1.weight' is not finite"):
        tape.backward(total)


def test_without_anomaly_mode_bad_numbers_pass(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0, np.inf)
    with Tape() as tape:
        total = reduce.sum_(apply(BrokenGradient, weight))
    tape.backward(total)
    assert np.isnan(weight.grad).all()


def test_an_anomaly_is_an_autograd_error() -> None:
    assert issubclass(NonFiniteError, AutogradError)


def test_integers_are_finite(double: ReferenceBackend) -> None:
    with Tape(detect_anomaly=True):
        assert elementwise.add(Tensor(np.array([1]), double), Tensor(np.array([1]), double)).data[0] == 2


def test_a_whole_pass_with_a_float64_loss_is_checked_on_the_cpu_backend(cpu: CpuBackend) -> None:
    table = Tensor(cpu.asarray(np.eye(3)), cpu, requires_grad=True, name="token_embd.weight")
    ids, labels = np.array([0, 1, 2], np.int32), np.array([1, 2, -100], np.int32)
    with Tape(detect_anomaly=True) as tape:
        hidden = embedding.embedding(table, ids)
        total = loss.linear_cross_entropy(matmul.linear(hidden, table), table, labels, 0.5)
    tape.backward(total)
    table.data[0, 0] = np.nan
    table.zero_grad()
    with Tape(detect_anomaly=True), pytest.raises(NonFiniteError, match=r"'token_embd.weight' was not finite already"):
        embedding.embedding(table, ids)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_the_op_inside_a_checkpoint_is_named_in_forward(double: ReferenceBackend) -> None:
    with (
        Tape(detect_anomaly=True),
        scope("blk.4"),
        pytest.raises(NonFiniteError, match=r"op 'log' at blk.4.inner made"),
    ):
        checkpoint(log_in_a_scope, leaf(double, 0.0))


def log_in_a_scope(x: Tensor) -> Tensor:
    with scope("inner"):
        return elementwise.log(x)


def test_the_op_inside_a_checkpoint_is_named_in_backward(double: ReferenceBackend) -> None:
    def block(x: Tensor) -> Tensor:
        with scope("inner"):
            return apply(BrokenGradient, x)

    with Tape(detect_anomaly=True) as tape, scope("blk.4"):
        total = reduce.sum_(checkpoint(block, leaf(double, 1.0)))
    with pytest.raises(NonFiniteError, match=r"gradient of op 'broken' at blk.4.inner for 'checkpoint input'"):
        tape.backward(total)
