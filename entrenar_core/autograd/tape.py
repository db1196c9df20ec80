"""The tape: the list of nodes in order of execution, walked in reverse by `backward`.

The walk is a loop, not a recursion, and each node is dropped as soon as its gradients are out, so that saved arrays and
gradients of activations go back to the pool while the walk goes on. Nothing records unless a tape is entered:
``with Tape() as tape: ...; tape.backward(loss)``; `no_grad` suspends the one that is active.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entrenar_core.autograd.tensor import GradSlot, Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import AutogradError

if TYPE_CHECKING:
    from entrenar_core.autograd.op import Context, Op

_active: ContextVar[Tape | None] = ContextVar("active_tape", default=None)


class NonFiniteError(AutogradError):
    """Anomaly mode found the op that made the first NaN or infinity."""


@dataclass(slots=True)
class Node:
    """One executed op: its context, the slots of its inputs and output, and the versions of those it saved."""

    op: type[Op]
    context: Context
    inputs: tuple[GradSlot | None, ...]
    output: GradSlot
    versions: tuple[tuple[GradSlot, int], ...]
    location: str


def current_tape() -> Tape | None:
    """The tape that is recording in this thread, if any."""
    return _active.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Suspend recording."""
    token = _active.set(None)
    try:
        yield
    finally:
        _active.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name the part of the model that runs inside, for messages; free when nothing records."""
    tape = _active.get()
    if tape is None:
        yield
        return
    tape.scopes.append(name)
    try:
        yield
    finally:
        tape.scopes.pop()


class Tape:
    """Records ops and computes gradients, once.

    Args:
        detect_anomaly: check every output and every gradient; the first that is not finite raises `NonFiniteError`
            with the op and where it ran. Slow; for finding out.
        scopes: the names that lead to here, for a tape nested inside another.
        lineage: identities of the tapes that this one is nested in; results recorded there may be used here.
    """

    def __init__(
        self, *, detect_anomaly: bool = False, scopes: Sequence[str] = (), lineage: tuple[object, ...] = ()
    ) -> None:
        self.nodes: list[Node] = []
        self.identity = object()
        self.lineage = (*lineage, self.identity)
        self.detect_anomaly = detect_anomaly
        self.scopes = list(scopes)
        self._consumed = False
        self._ones: Array | None = None
        self._token: Token[Tape | None] | None = None

    def __enter__(self) -> Tape:
        if self._token is not None:
            raise AutogradError("this tape is already recording")
        self._token = _active.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._token is not None:
            _active.reset(self._token)
            self._token = None

    def location(self) -> str:
        return ".".join(self.scopes)

    def record(self, node: Node) -> None:
        """Append a node.

        Raises:
            AutogradError: the tape has been walked already, or an input was computed on another tape.
        """
        if self._consumed:
            raise AutogradError(
                f"op {node.op.name!r} was recorded on a tape whose backward has run",
                hint="open a new Tape for each forward pass",
            )
        for slot, needed in zip(node.inputs, node.context.needs, strict=True):
            if slot is not None and needed and slot.origin is not None and slot.origin not in self.lineage:
                raise AutogradError(
                    f"op {node.op.name!r} got {slot.name!r} from another tape; its gradient would be lost",
                    hint="compute both on one tape, or wrap the data in a new Tensor to stop the gradient there",
                )
        node.output.origin = self.identity
        self.nodes.append(node)

    def backward(self, output: Tensor, grad: Array | None = None) -> None:
        """Add d(output)/d(leaf) to the gradient of every leaf that led to `output`.

        Args:
            output: what was computed on this tape; a scalar unless `grad` is given.
            grad: upstream gradient of the shape of `output`.

        Raises:
            AutogradError: a second walk, a tensor that this tape did not record, a shape that does not fit, or an
                input that was changed in place after it was saved.
        """
        if self._consumed:
            raise AutogradError(
                "backward ran twice over one tape; its saved arrays are gone", hint="run the forward pass again"
            )
        if output.slot.origin is not self.identity:
            raise AutogradError(
                "the tensor was not recorded on this tape", hint="compute it inside `with Tape()` from trainable inputs"
            )
        self._consumed = True
        output.slot.grad = _seed_gradient(output, grad)
        self._ones = output.slot.grad if grad is None else None
        output.slot.shared = True
        with no_grad():
            while self.nodes:
                self._step_back(self.nodes.pop())

    def _step_back(self, node: Node) -> None:
        upstream, node.output.grad = node.output.grad, None
        if upstream is None:
            return
        for saved, version in node.versions:
            if saved.version.count != version:
                raise AutogradError(
                    f"tensor {saved.name!r} was changed in place after {node.op.name!r} saved it"
                    f" ({node.location or 'top level'})"
                )
        node.context.upstream_is_one = upstream is self._ones
        grads = node.op.backward(node.context, upstream)
        backend = node.context.backend
        for slot, grad, needed in zip(node.inputs, grads, node.context.needs, strict=True):
            if slot is not None and grad is not None and needed:
                self._check_backward(node, slot, grad, backend)
                slot.accumulate(grad, backend, shared=node.op.passes_gradient)

    def check_forward(self, op_name: str, inputs: Sequence[Tensor | None], output: Tensor) -> None:
        """In anomaly mode, raise if the output of an op is not finite."""
        if not self.detect_anomaly or _is_finite(output.data, output.backend):
            return
        culprits = [t.name or "unnamed" for t in inputs if t is not None and not _is_finite(t.data, t.backend)]
        cause = f"its input {culprits[0]!r} was not finite already" if culprits else "its inputs were finite"
        raise NonFiniteError(f"op {op_name!r} at {self.location() or 'top level'} made a NaN or infinity; {cause}")

    def _check_backward(self, node: Node, slot: GradSlot, grad: Array, backend: Backend) -> None:
        if self.detect_anomaly and not _is_finite(grad, backend):
            raise NonFiniteError(
                f"the gradient of op {node.op.name!r} at {node.location or 'top level'} for {slot.name!r} is not finite"
            )


def _is_finite(array: Any, backend: Backend) -> bool:
    if array.dtype.kind in "biu":
        return True
    if array.dtype in (backend.dtype, backend.compute_dtype):
        return backend.all_finite(backend.cast(array, backend.dtype))
    return bool(backend.xp.isfinite(array).all())


def _seed_gradient(output: Tensor, grad: Array | None) -> Array:
    if grad is None:
        if output.shape != ():
            raise AutogradError(f"backward needs a gradient for an output of shape {output.shape}; only scalars do not")
        return output.backend.xp.ones((), dtype=output.data.dtype)
    grad = output.backend.asarray(grad, output.data.dtype)
    if tuple(grad.shape) != output.shape:
        raise AutogradError(f"gradient of shape {tuple(grad.shape)} for an output of shape {output.shape}")
    return grad
