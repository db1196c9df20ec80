"""What an op is: one class with `forward` and `backward` next to each other, and the context between them.

`apply` runs an op's forward on the arrays of its inputs and, when a tape is recording and some input wants a gradient,
leaves a node on it. Ops call the backend's kernels and know no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from entrenar_core.autograd.tape import Node, current_tape
from entrenar_core.autograd.tensor import GradSlot, Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import AutogradError


class Context:
    """What forward leaves for backward: saved arrays, plain values as attributes, and who needs a gradient."""

    def __init__(self, backend: Backend, needs: tuple[bool, ...], slots: tuple[GradSlot | None, ...]) -> None:
        self.backend = backend
        self.needs = needs
        self.saved: tuple[Any, ...] = ()
        self.params: dict[str, Any] = {}
        self.slots = slots
        self.upstream_is_one = False

    def factor(self, grad: Array) -> float:
        """The gradient that arrives at a scalar, as a number; no device is asked if backward began at that scalar."""
        return 1.0 if self.upstream_is_one else float(grad)

    @property
    def recording(self) -> bool:
        """Whether backward may come, so that forward must save what it needs."""
        return any(self.needs)

    def save(self, *arrays: Any) -> None:
        """Keep arrays until this node's backward has run."""
        if self.recording:
            self.saved = arrays

    def grad_buffer(self, index: int) -> Array | None:
        """The gradient of input `index` so far, if it may be added to in place; return that same array from backward.

        It saves a temporary as large as the weight when gradients of several micro-batches accumulate.
        """
        slot = self.slots[index]
        return None if slot is None or slot.shared else slot.grad


class Op:
    """Base of all ops: stateless, two static methods.

    `passes_gradient`: backward may return the upstream gradient itself or a view of it, so the receivers must not
    change it in place. Other ops return a new array for each input.
    `may_return_view`: forward's result may lie in the memory of its first input, so a change of one changes the other.
    """

    name: ClassVar[str] = "op"
    passes_gradient: ClassVar[bool] = False
    may_return_view: ClassVar[bool] = False

    @staticmethod
    def forward(context: Context, *arrays: Any, **params: Any) -> Array:
        raise AutogradError("an op without forward was applied")

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        """Gradients of the inputs, in order; None where none is needed."""
        raise AutogradError("an op without backward was differentiated")


def apply(op: type[Op], *inputs: Tensor | None, **params: Any) -> Tensor:
    """Run `op` on tensors (None for an absent optional one) and record it if a gradient will be wanted.

    Raises:
        AutogradError: the inputs live on different backends.
    """
    backend = common_backend(op, inputs)
    tape = current_tape()
    context = _context(backend, inputs, recording=tape is not None)
    data = op.forward(context, *(None if tensor is None else tensor.data for tensor in inputs), **params)
    data = backend.xp.asarray(data)
    output = Tensor(data, backend, requires_grad=context.recording, name=op.name, is_leaf=False)
    first = inputs[0]
    if op.may_return_view and first is not None and backend.xp.may_share_memory(data, first.data):
        output.slot.version = first.slot.version
    if tape is not None:
        tape.check_forward(op.name, inputs, output)
        if context.recording:
            versions = _saved_versions(context, (*inputs, output))
            tape.record(Node(op, context, context.slots, output.slot, versions, tape.location()))
    return output


def _context(backend: Backend, inputs: Sequence[Tensor | None], *, recording: bool) -> Context:
    needs = tuple(recording and tensor is not None and tensor.requires_grad for tensor in inputs)
    return Context(backend, needs, tuple(None if tensor is None else tensor.slot for tensor in inputs))


def _saved_versions(context: Context, tensors: Sequence[Tensor | None]) -> tuple[tuple[GradSlot, int], ...]:
    """The versions of the tensors whose data the op saved, to find out later whether they were changed."""
    saved = {id(array) for array in context.saved}
    held = [tensor.slot for tensor in tensors if tensor is not None and id(tensor.data) in saved]
    return tuple((slot, slot.version.count) for slot in held)


def common_backend(op: type[Op], inputs: Sequence[Tensor | None]) -> Backend:
    """The backend that all inputs share."""
    backends = {id(tensor.backend): tensor.backend for tensor in inputs if tensor is not None}
    if len(backends) != 1:
        names = sorted(backend.name for backend in backends.values())
        raise AutogradError(f"op {op.name!r} got inputs on {len(backends)} backends: {names}")
    return next(iter(backends.values()))
