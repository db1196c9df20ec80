"""Activation checkpointing: keep only the inputs of a block and run it again when its gradients are due.

Memory falls from every activation of every block to the inputs of the blocks plus the activations of one; the price is
one more forward pass (Chen et al. 2016). Dropout masks are keyed, not drawn, so the second run sees the first one's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tape import Tape, current_tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.errors import AutogradError

Block = Callable[..., Tensor]


def checkpoint(function: Block, *inputs: Tensor, trainable_inside: bool = False) -> Tensor:
    """`function(*inputs)` without keeping its activations.

    Args:
        function: maps tensors to one tensor; must give the same result when called again. What it closes over must
            not change in place before backward has run; only changes of `inputs` are noticed.
        inputs: tensors that gradients flow back to.
        trainable_inside: the function closes over parameters that want gradients, so it must be run again even when
            none of the inputs wants one.

    Raises:
        AutogradError: gradients are wanted inside only, and `trainable_inside` does not say so.
    """
    tape = current_tape()
    if tape is None:
        return function(*inputs)
    backend = inputs[0].backend
    anchor = Tensor(backend.zeros(()), backend, requires_grad=trainable_inside, name="checkpoint anchor")
    run = _Run(function, tape.detect_anomaly, tuple(tape.scopes), tape.lineage)
    return apply(_Checkpoint, anchor, *inputs, run=run)


@dataclass(frozen=True)
class _Run:
    """The function, and the tape around it that its own tapes are nested in."""

    function: Block
    detect_anomaly: bool
    scopes: tuple[str, ...]
    lineage: tuple[object, ...]

    def tape(self) -> Tape:
        return Tape(detect_anomaly=self.detect_anomaly, scopes=self.scopes, lineage=self.lineage)


class _Checkpoint(Op):
    name = "checkpoint"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, anchor: Array, *arrays: Array, run: _Run) -> Array:
        context.params["run"] = run
        context.save(*arrays)
        inputs = [Tensor(array, context.backend, name="checkpoint input") for array in arrays]
        if context.recording and not run.detect_anomaly:
            with no_grad():
                return run.function(*inputs).data
        with run.tape() as probe:
            output = run.function(*inputs)
        if probe.nodes and not context.recording:
            raise AutogradError(
                f"a checkpointed function closes over trainable tensors ({probe.location() or 'top level'}),"
                " whose gradients would be lost",
                hint="pass trainable_inside=True",
            )
        return output.data

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        run: _Run = context.params["run"]
        inputs = [
            Tensor(array, context.backend, requires_grad=needed, name="checkpoint input", is_leaf=False)
            for array, needed in zip(context.saved, context.needs[1:], strict=True)
        ]
        with run.tape() as tape:
            output = run.function(*inputs)
        if output.slot.origin is tape.identity:
            tape.backward(output, grad)
        elif output.requires_grad:  # the function returned what it was given
            output.slot.accumulate(grad, context.backend, shared=True)
        return [None, *(tensor.slot.grad for tensor in inputs)]
