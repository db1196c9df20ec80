"""Matrix products of the CUDA backend: cuBLAS through the runtime, operands brought to one type, frozen weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.backend.cuda_launch import FLOAT32, CudaLaunch, check_shape


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """A frozen dense weight [out, in] on the device, in the type that products are computed in."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        n_out, n_in = self.values.shape
        return int(n_out), int(n_in)

    @property
    def n_bytes(self) -> int:
        return int(self.values.nbytes)


class CudaProducts(CudaLaunch):
    """The part of `Backend` that multiplies matrices."""

    def cast(self, array: Array, dtype: Any) -> Array:
        """The array in another floating type (float32 or bfloat16), itself if it has it; contiguous if it is new."""
        if array.dtype == dtype:
            return array
        array = self.contiguous(array)
        result = self.empty(array.shape, dtype)
        if dtype == FLOAT32:
            self.over_elements("elementwise", "to_float32", array.size, array, result, array.size, element=array.dtype)
        else:
            self.over_elements("elementwise", "from_float32", array.size, array, result, array.size, element=dtype)
        return result

    def gemm(
        self,
        a: Array,
        b: Array,
        out: Array | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        dtype: Any = None,
    ) -> Array:
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"gemm: {a.shape} @ {b.shape} does not fit")
        shape = (a.shape[0], b.shape[1])
        wanted = dtype if out is None else out.dtype
        operand_dtype = FLOAT32 if a.dtype == b.dtype == FLOAT32 == (wanted or FLOAT32) else self.runtime.bfloat16
        if out is None:
            out, beta = self.empty(shape, wanted or operand_dtype), 0.0
        check_shape("gemm", "out", out, shape)
        self._multiply(self._operand(a, operand_dtype), self._operand(b, operand_dtype), out, alpha, beta)
        return out

    def _multiply(self, a: Array, b: Array, out: Array, alpha: float, beta: float) -> None:
        if 0 in out.shape:
            return
        if a.shape[-1] == 0:  # a sum of nothing
            out[...] = self.scale(self.contiguous(out), beta) if beta else 0
            return
        self.runtime.gemm(a, b, out, float(alpha), float(beta))

    def _operand(self, matrix: Array, dtype: Any) -> Array:
        """The matrix in `dtype`, in rows or in columns without gaps between elements."""
        transposed = matrix.strides[-1] != matrix.dtype.itemsize and matrix.strides[-2] == matrix.dtype.itemsize
        if transposed:
            return self.cast(matrix.T, dtype).T
        return self.cast(matrix if self._is_blas_ready(matrix) else self.xp.ascontiguousarray(matrix), dtype)

    @staticmethod
    def _is_blas_ready(matrix: Array) -> bool:
        between, within = matrix.strides[-2:]
        item = matrix.dtype.itemsize
        return within == item and between % item == 0 and between >= item * matrix.shape[-1]

    def scale(self, a: Array, factor: float, out: Array | None = None) -> Array:
        a = self.contiguous(a)
        out = self.empty(a.shape, a.dtype) if out is None else out
        self.over_elements("elementwise", "scale", a.size, a, factor, out, a.size, element=a.dtype)
        return out

    def prepare_weight(self, weight: Array) -> WeightHandle:
        if weight.ndim != 2:
            raise ValueError(f"prepare_weight: {weight.shape} is not [out, in]")
        return DeviceWeight(self.cast(weight, self.compute_dtype))

    def linear(self, x: Array, weight: WeightHandle, dtype: Any = None) -> Array:
        return self.gemm(x, self.weight_values(weight).T, dtype=dtype)

    def linear_input_grad(self, dy: Array, weight: WeightHandle) -> Array:
        return self.gemm(dy, self.weight_values(weight))

    def weight_values(self, weight: WeightHandle) -> Array:
        """The values of a frozen weight [out, in], in a type that products are computed in.

        Raises:
            TypeError: a handle of another backend.
        """
        if not isinstance(weight, DeviceWeight):
            raise TypeError(f"a weight of the cuda backend is needed, not a {type(weight).__name__}")
        return weight.values
