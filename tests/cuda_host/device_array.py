"""Stand-ins for CuPy's arrays and module, on the host: what CuPy would refuse or get wrong is refused here.

A `DeviceArray` does not mix with NumPy arrays, does not turn into one unasked, and has no arithmetic in bfloat16 (where
CuPy's promotion is not torch's). Whatever makes the host wait for the device is counted in `waits`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cuda_host.host_stream import Pointer, stream

_ARITHMETIC = (
    "__add__",
    "__radd__",
    "__sub__",
    "__rsub__",
    "__mul__",
    "__rmul__",
    "__truediv__",
    "__rtruediv__",
    "__pow__",
    "__neg__",
    "__iadd__",
    "__isub__",
    "__imul__",
    "__itruediv__",
)
_COMPUTING = frozenset(
    [
        "sum",
        "mean",
        "max",
        "min",
        "argmax",
        "argsort",
        "cumsum",
        "clip",
        "dot",
        "prod",
        "std",
        "var",
        "round",
        "nonzero",
        "all",
        "any",
        *_ARITHMETIC,
    ]
)
_WAITING = frozenset(["item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "__index__"])
_RETURNS_HOST = frozenset(["item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__len__"])
_FROM_HOST = frozenset(["asarray", "array", "ascontiguousarray"])
_WAITING_FUNCTIONS = frozenset(["nonzero", "flatnonzero", "unique", "argwhere", "bincount"])
_OF_THE_HOST = frozenset(["data", "ctypes", "flat", "base"])
_MOVING_FUNCTIONS = frozenset(
    [
        "asarray",
        "array",
        "ascontiguousarray",
        "concatenate",
        "broadcast_to",
        "expand_dims",
        "split",
        "stack",
        "take",
        "may_share_memory",
        "empty",
        "zeros",
        "empty_like",
        "zeros_like",
        "full",
        "swapaxes",
        "moveaxis",
        "shares_memory",
    ]
)

waits = {"count": 0}
"""How often the host has waited."""


def unwrap(value: Any) -> Any:
    """The NumPy array behind a `DeviceArray`, also inside tuples and lists; arrays of the host are refused."""
    if isinstance(value, DeviceArray):
        return value.host
    if isinstance(value, tuple | list):
        return type(value)(unwrap(each) for each in value)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError(f"Unsupported type {type(value)}: an array of the host among arrays of the device")
    return value


def wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(wrap(each) for each in value)
    return value


def _refuse_bfloat16(name: str, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
            raise TypeError(f"{name} on bfloat16: kernels compute, array operators do not")


class DeviceArray:
    """An array that only kernels, `Runtime` and the `HostModule` may touch."""

    __array_ufunc__ = None
    __slots__ = ("__weakref__", "host")

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    @property
    def data(self) -> Pointer:
        return Pointer(self, int(self.host.ctypes.data))

    def get(self, out: np.ndarray) -> np.ndarray:
        waits["count"] += 1
        stream.synchronize()
        out[...] = self.host
        return out

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _OF_THE_HOST:
            raise AttributeError(f"{name} of an array of the device")
        value = getattr(self.host, name)
        if not callable(value):
            return wrap(value) if isinstance(value, np.ndarray) else value
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream.synchronize()
        plain = [unwrap(each) for each in args]
        if name in _COMPUTING:
            _refuse_bfloat16(name, [self.host, *plain])
        if name in _WAITING:
            waits["count"] += 1
        result = getattr(self.host, name)(*plain, **{key: unwrap(value) for key, value in kwargs.items()})
        if name.startswith("__i") and isinstance(result, np.ndarray):
            return self
        return result if name in _RETURNS_HOST else wrap(result)

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(np.asarray(self.host[self._index(index)]))

    def __setitem__(self, index: Any, value: Any) -> None:
        stream.synchronize()
        self.host[self._index(index)] = unwrap(value)

    @staticmethod
    def _index(index: Any) -> Any:
        plain = unwrap(index)
        if any(
            isinstance(each, np.ndarray) and each.dtype == bool for each in (plain if type(plain) is tuple else [plain])
        ):
            waits["count"] += 1
        return plain

    def __iter__(self) -> Any:
        raise TypeError("a loop over an array of the device waits for every element")


def _operator(name: str) -> Any:
    def call(self: DeviceArray, *args: Any) -> Any:
        return self._call(name, args, {})

    return call


for _name in [
    *_ARITHMETIC,
    "__eq__",
    "__ne__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__and__",
    "__or__",
    "__invert__",
    "__floordiv__",
    "__mod__",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "__len__",
]:
    setattr(DeviceArray, _name, _operator(_name))
DeviceArray.__hash__ = object.__hash__  # type: ignore[method-assign]


class HostModule:
    """NumPy's functions for device arrays, as the module `cupy` has them."""

    ndarray = DeviceArray

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *args, **kwargs: self._call(name, value, args, kwargs)

    @staticmethod
    def _call(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in _FROM_HOST and isinstance(args[0], np.ndarray):
            args = (DeviceArray(args[0].copy()), *args[1:])
        stream.synchronize()
        plain = [unwrap(each) for each in args]
        if name not in _MOVING_FUNCTIONS:
            _refuse_bfloat16(name, plain)
        if name in _WAITING_FUNCTIONS:
            waits["count"] += 1
        out = kwargs.get("out")
        result = function(*plain, **{key: unwrap(each) for key, each in kwargs.items()})
        if out is not None:
            return out
        return result if isinstance(result, bool | np.dtype) else wrap(result)
