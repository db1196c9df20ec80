"""What the CPU backend asks of the arrays it is given: float32, contiguous, of fitting shapes, ids in range.

Kernels run without bounds checks, so whatever passes here must be safe for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.parameters import AttentionParams

NDArray = np.ndarray[Any, np.dtype[Any]]

FLOAT32 = np.dtype(np.float32)


def contiguous(array: NDArray) -> NDArray:
    """The array in C order, copied only if it is not.

    Raises:
        ValueError: the array is not float32.
    """
    if array.dtype is not FLOAT32 and array.dtype != FLOAT32:
        raise ValueError(f"the cpu backend computes in float32, not {array.dtype}: convert with asarray")
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def like(operation: str, array: NDArray, model: NDArray) -> NDArray:
    """The array in C order, of the shape of `model`."""
    if array.shape != model.shape:
        raise ValueError(f"{operation}: shapes {array.shape} and {model.shape} differ")
    return contiguous(array)


def vector(operation: str, array: NDArray, length: int) -> NDArray:
    """The array in C order, of shape [length]."""
    if array.shape != (length,):
        raise ValueError(f"{operation}: a vector of {length} is needed, not {array.shape}")
    return contiguous(array)


def rows(operation: str, x: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """x [M, D] and its weight [D], in C order."""
    if x.ndim != 2 or weight.shape != x.shape[1:]:
        raise ValueError(f"{operation}: x {x.shape} and weight {weight.shape} do not fit [M, D] and [D]")
    return contiguous(x), contiguous(weight)


def writable(operation: str, array: NDArray) -> NDArray:
    """The array, which will be changed in place: it must be contiguous float32 as it stands."""
    if array.dtype != FLOAT32 or not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(f"{operation}: {array.dtype} {array.shape} is changed in place: writable, contiguous float32")
    return array


def indices(operation: str, ids: NDArray, size: int) -> NDArray:
    """ids as int32 [M], each in 0 ... size-1."""
    if ids.ndim != 1:
        raise ValueError(f"{operation}: ids of shape {ids.shape}, but [M] is needed")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= size):
        raise ValueError(f"{operation}: ids from {ids.min()} to {ids.max()} leave the range 0 ... {size - 1}")
    return np.ascontiguousarray(ids, np.int32)


def optimizer_states(operation: str, parameter: NDArray, grad: NDArray, *states: NDArray) -> tuple[NDArray, ...]:
    """Parameter, gradient and states as flat views."""
    grad = like(operation, grad, parameter)
    for state in states:
        like(operation, writable(operation, state), parameter)
    return tuple(each.reshape(-1) for each in (writable(operation, parameter), grad, *states))


def attention_inputs(
    q: NDArray, k: NDArray, v: NDArray, lower: NDArray, params: AttentionParams
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """q and lower in C order, k and v with contiguous heads (they may be views of a longer cache).

    Raises:
        ValueError: shapes that do not fit, too few keys, or a query that would see nothing.
    """
    params.check_shapes(q, k, v, lower)
    own_key = np.arange(params.q_offset, params.q_offset + q.shape[1])
    if lower.size and (int(lower.min()) < 0 or bool((lower > own_key).any())):
        shapes = f"q {q.shape}, k {k.shape}, v {v.shape}, lower {lower.shape}"
        raise ValueError(f"attention: {shapes}: lower must be between 0 and the query's own key")
    return contiguous(q), _contiguous_heads(k), _contiguous_heads(v), np.ascontiguousarray(lower, np.int32)


def _contiguous_heads(x: NDArray) -> NDArray:
    readable_by_blas = x.dtype == FLOAT32 and x.strides[3] == 4 and x.strides[1] % 4 == 0
    return x if readable_by_blas and x.strides[1] >= 4 * x.shape[3] else contiguous(x)
