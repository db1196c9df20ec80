"""Holding a kernel against the float64 reference: the same rounded inputs in, results within a tolerance out.

Every kernel is called twice, with fresh arguments: both calls must give the same bits, and leave alone what they are
not said to change. Errors are relative to the largest element of the truth, or to the `terms` that a result is the
difference of, where they may cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.subject import DTYPES, TRUTH, Subject
from entrenar_core.codecs.packed import PackedMatrix

NDArray = np.ndarray[Any, np.dtype[Any]]

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
"""Of a result, by its element type."""


@dataclass(frozen=True)
class Finding:
    """One line: how far a result was from what it should be.

    Attributes:
        name: of what was tried.
        dtype: of activations.
        error: the worst; NaN is a failure.
        tolerance: what it may be at most.
        faults: what else was wrong.
        tried: how many results this is about.
        not_measured: why there is no figure.
    """

    name: str
    dtype: str
    error: float
    tolerance: float
    faults: tuple[str, ...] = ()
    tried: int = 1
    not_measured: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance and not self.faults

    def message(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "faults": list(self.faults), "ok": self.ok}


@dataclass(frozen=True)
class Activation:
    """float64 values [...] that the backend holds in its compute dtype, which they fit exactly."""

    values: NDArray


@dataclass(frozen=True)
class Weight:
    """A frozen matrix [out, in], handed over by `prepare_weight`."""

    values: NDArray


@dataclass(frozen=True)
class Viewed:
    """A view of an argument, such as its transpose."""

    argument: Any
    view: Callable[[Any], Any]


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: name of the backend's method.
        how: what is called instead of the method, with the backend and the arguments.
        arguments: `Activation`, `Weight`, `PackedMatrix`, `Viewed`; float arrays are parameters, in float32; integer
            and bool arrays go as they are, and so does everything else.
        options: by keyword.
        label: what the line is called; the kernel's name if empty.
        changed: which arguments the kernel changes; they are compared after it.
        terms: see `relative_error`.
        exact: results must be equal bit for bit.
        tolerance: by element type of the result.
    """

    kernel: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    changed: tuple[int, ...] = ()
    terms: float = 0.0
    exact: bool = False
    tolerance: dict[str, float] = field(default_factory=lambda: TOLERANCE)
    how: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Draw:
    """Random arguments of one element type."""

    dtype: str
    sizes: Sizes
    rng: np.random.Generator

    def normal(self, *shape: int) -> NDArray:
        """A parameter: float64 values that float32 holds exactly."""
        return self.rng.standard_normal(shape, np.float32).astype(np.float64)

    def rounded(self, values: NDArray) -> NDArray:
        """The values as the element type of activations holds them."""
        return rounded(values, self.dtype)

    def activation(self, *shape: int) -> Activation:
        return Activation(self.rounded(self.normal(*shape)))

    def weight(self, *shape: int) -> Weight:
        return Weight(self.rounded(self.normal(*shape)))

    def ids(self, n: int, below: int) -> NDArray:
        """int32 [n]."""
        return self.rng.integers(0, below, n).astype(np.int32)

    def places(self, n: int, below: int) -> NDArray:
        """int32 [n], all different."""
        return self.rng.permutation(below)[:n].astype(np.int32)


def rounded(values: NDArray, dtype: str) -> NDArray:
    """float64 values as float32 or bfloat16 holds them."""
    if dtype == "float32":
        return values.astype(np.float32).astype(np.float64)
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


def relative_error(actual: NDArray, truth: NDArray, terms: float = 0.0) -> float:
    """The largest |actual - truth| over the largest |truth|, or over `terms` if that is more; NaN where one is not
    finite and the other is not the same."""
    actual = np.asarray(actual, np.float64)
    if actual.shape != truth.shape:
        return float("nan")
    finite = np.isfinite(truth)
    if not finite.all():
        if not np.array_equal(actual[~finite], truth[~finite], equal_nan=True):
            return float("nan")
        actual, truth = actual[finite], truth[finite]
    if truth.size == 0:
        return 0.0
    largest = max(float(np.abs(truth).max()), terms)
    worst = float(np.abs(actual - truth).max())
    return worst if largest == 0 else worst / largest


def different(actual: NDArray, truth: NDArray) -> float:
    """The share of elements that are not the same number."""
    if actual.shape != truth.shape:
        return float("nan")
    return float(np.mean(~((actual == truth) | (np.isnan(actual) & np.isnan(truth))))) if truth.size else 0.0


Calls = Callable[[Draw], Iterable[Call]]
Check = Callable[[Subject], Iterator[Finding]]


def check_of(calls: Calls, dtypes: Sequence[str] = DTYPES) -> Check:
    """The check that makes these calls for each element type of activations: one line for each label and type."""

    def check(subject: Subject) -> Iterator[Finding]:
        for dtype in dtypes:
            found: dict[str, Finding] = {}
            for call in calls(Draw(dtype, subject.sizes, np.random.default_rng(17))):
                one = ask(subject, call, dtype)
                found[one.name] = one if one.name not in found else worse(found[one.name], one)
            yield from found.values()

    return check


def worse(a: Finding, b: Finding) -> Finding:
    """Both in one: the larger error in units of its tolerance, and all faults."""
    a_is_worse = not b.error / (b.tolerance or 1) >= a.error / (a.tolerance or 1) and b.error == b.error
    faults = (*a.faults, *(fault for fault in b.faults if fault not in a.faults))
    return replace(a if a_is_worse else b, faults=faults, tried=a.tried + b.tried)


def ask(subject: Subject, call: Call, dtype: str, twice: bool = True) -> Finding:
    """Make the call on the reference and on the device, and compare; twice there, unless bits may differ."""
    backend = subject.backends[dtype]
    truths, _ = _results(TRUTH, call)
    actuals, faults = _results(backend, call)
    again = _results(backend, call)[0] if twice else actuals
    found = Finding(call.label or call.kernel, dtype, 0.0, call.tolerance[dtype], tuple(faults))
    for index, (actual, truth) in enumerate(zip(actuals, truths, strict=True)):
        if (actual is None) != (truth is None):
            found = replace(found, faults=(*found.faults, f"result {index} is {actual}"))
        elif actual is not None and truth is not None:
            found = worse(found, _compare(call, dtype, found.name, actual, truth))
    if not all(_same_bits(*pair) for pair in zip(actuals, again, strict=True)):
        found = replace(found, faults=(*found.faults, "a second call gave other bits"))
    return replace(found, tried=1)


@dataclass(frozen=True)
class _Result:
    values: NDArray
    dtype: str


def _compare(call: Call, dtype: str, name: str, actual: _Result, truth: _Result) -> Finding:
    faults = ()
    if call.exact:
        tolerance, error = 0.0, different(actual.values, truth.values.astype(np.float32))
    else:
        of_type = actual.dtype if actual.dtype in TOLERANCE else "float32"
        tolerance, error = call.tolerance[of_type], relative_error(actual.values, truth.values, call.terms)
    return Finding(name, dtype, error, tolerance, faults)


def _same_bits(a: _Result | None, b: _Result | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a.values, b.values, equal_nan=a.values.dtype.kind == "f")


def _results(backend: Any, call: Call) -> tuple[list[_Result | None], list[str]]:
    """What the kernel returned and changed, on the host, and what it did wrong."""
    arguments = [place(backend, argument) for argument in call.arguments]
    arrays = {i: a for i, a in enumerate(arguments) if isinstance(a, backend.xp.ndarray) and i not in call.changed}
    before = {index: backend.to_host(array).copy() for index, array in arrays.items()}
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        method = partial(call.how, backend) if call.how else getattr(backend, call.kernel)
        returned = method(*arguments, **call.options)
    returned = returned if isinstance(returned, tuple) else (returned,)
    if call.changed:
        returned = (*(each for each in returned if each is not None), *(arguments[index] for index in call.changed))
    faults = [
        f"argument {index} was changed"
        for index, array in arrays.items()
        if not np.array_equal(backend.to_host(array), before[index], equal_nan=before[index].dtype.kind == "f")
    ]
    return [_on_host(backend, each) for each in returned], faults


def _on_host(backend: Any, value: Any) -> _Result | None:
    if value is None:
        return None
    if isinstance(value, backend.xp.ndarray):
        return _Result(np.array(backend.to_host(value)), value.dtype.name)
    return _Result(np.asarray(value), "float32")


def place(backend: Any, argument: Any) -> Any:
    """An argument of a `Call` on a backend, in fresh memory."""
    if isinstance(argument, Activation):
        return backend.cast(backend.asarray(argument.values.copy()), backend.compute_dtype)
    if isinstance(argument, Weight):
        return backend.prepare_weight(backend.asarray(argument.values.copy()))
    if isinstance(argument, PackedMatrix):
        return backend.prepare_packed(argument)
    if isinstance(argument, Viewed):
        return argument.view(place(backend, argument.argument))
    return backend.asarray(argument.copy()) if isinstance(argument, np.ndarray) else argument
