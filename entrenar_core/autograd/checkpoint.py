"""Activation checkpointing: keep only the inputs of a block and run it again when its gradients are due.

Memory falls from every activation of every block to the inputs of the blocks plus the activations of one; the price is
one more forward pass (Chen et al. 2016). Dropout masks are keyed, not drawn, so the second run sees the first one's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tape import Tape, current_tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array

Block = Callable[..., Tensor]


def checkpoint(function: Block, *inputs: Tensor, trainable_inside: bool = False) -> Tensor:
    """`function(*inputs)` without keeping its activations.

    Args:
        function: maps tensors to one tensor; must give the same result when called again.
        inputs: tensors that gradients flow back to.
        trainable_inside: the function closes over parameters that want gradients, so it must be run again even when
            none of the inputs wants one.
    """
    if current_tape() is None:
        return function(*inputs)
    anchor = Tensor(
        inputs[0].backend.zeros(()), inputs[0].backend, requires_grad=trainable_inside, name="checkpoint anchor"
    )
    return apply(_Checkpoint, anchor, *inputs, function=function)


class _Checkpoint(Op):
    name = "checkpoint"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, anchor: Array, *arrays: Array, function: Block) -> Array:
        tape = current_tape()
        detect_anomaly = tape is not None and tape.detect_anomaly
        scopes = () if tape is None else tuple(tape.scopes)
        context.params.update(function=function, detect_anomaly=detect_anomaly, scopes=scopes)
        context.save(*arrays)
        inputs = [Tensor(array, context.backend) for array in arrays]
        if detect_anomaly:
            with Tape(detect_anomaly=True, scopes=scopes):
                return function(*inputs).data
        with no_grad():
            return function(*inputs).data

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        params: dict[str, Any] = context.params
        inputs = [
            Tensor(array, context.backend, requires_grad=needed, name="checkpoint input", is_leaf=False)
            for array, needed in zip(context.saved, context.needs[1:], strict=True)
        ]
        with Tape(detect_anomaly=params["detect_anomaly"], scopes=params["scopes"]) as tape:
            output = params["function"](*inputs)
        tape.backward(output, grad)
        return [None, *(tensor.slot.grad for tensor in inputs)]
