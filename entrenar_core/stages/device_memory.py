"""How much of a GPU's memory a training run will take at its peak, part by part, from the shapes alone.

What the engine holds there is found by `dry_pass` on a device that does nothing. CUDA's own share is reckoned, for it
is the driver's: the context, the loaded kernels, and the work space that cuBLAS takes on each stream.
"""

from __future__ import annotations

from entrenar_core.model.packed import float_matrices
from entrenar_core.stages.estimate import MIB, MemoryEstimate, MemoryRequest, all_tensors, engine_parts, held_by_engine
from entrenar_core.stages.fit import memory_verdict
from entrenar_core.stages.plan_types import DeviceMemoryPlan

CONTEXT = 600 * MIB
"""The driver's context with our kernels and the libraries' on one device, as others report it; not measured."""

POOL_SLACK = 1.05
"""What CuPy's pool is taken to hold for a byte of arrays that are alive; not measured."""


def estimate_device_memory(request: MemoryRequest, compute_dtype: str) -> MemoryEstimate:
    """The peak memory on the device, for activations of `compute_dtype`.

    Raises:
        ConfigError, ModelError: LoRA targets that name no layer.
        MemoryError: not even the address space for it can be had.
    """
    tensors = all_tensors(request)
    held_as = request.held_as if request.lora is None else {**float_matrices(tensors), **request.held_as}
    held = held_by_engine(request, tensors, held_as, compute_dtype)
    engine = (("weights", held.weights), *engine_parts(held, request))
    total = sum(n_bytes for _, n_bytes in engine)
    return MemoryEstimate((("CUDA", CONTEXT), *engine, ("the pool's slack", int(total * (POOL_SLACK - 1)))))


def plan_device_memory(request: MemoryRequest, compute_dtype: str, free: int | None) -> DeviceMemoryPlan:
    """What a run takes of a device that has `free` bytes left, and what to change if it does not fit."""

    def estimator(changed: MemoryRequest) -> MemoryEstimate:
        return estimate_device_memory(changed, compute_dtype)

    estimate = estimator(request)
    return DeviceMemoryPlan(estimate, memory_verdict(request, estimate, free, estimator))
