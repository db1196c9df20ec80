"""Our contestant: the engine's own training step on a random model of a shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.contestant import Trainer, serve_contestant
from benchmarks.gpu.random_blocks import weight_blocks
from benchmarks.gpu.task import RANK, TARGETS, Task
from benchmarks.gpu.training_step import take_step
from benchmarks.lora_step_ours import random_batch, spec_of
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.packed import PackedWeight
from entrenar_core.optim.adam import AdamW

FOUR_BITS = "Q4_K"
STD = 0.02

_SPARE = 1024
"""Blocks of values beyond the largest matrix: each begins somewhere else in them."""


class RandomWeights:
    """Weights of a model's tensors, all from one piece of random memory, each from another place in it.

    Args:
        shapes: of the tensors.
        num_layers: matrices that write into the residual stream are smaller by √2L.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], num_layers: int) -> None:
        self._places = {name: 7 * index % _SPARE for index, name in enumerate(shapes)}
        self._largest = max(int(np.prod(shape)) for shape in shapes.values())
        self._scale = (2 * num_layers) ** -0.5
        self._values: np.ndarray | None = None
        self._packed: dict[tuple[str, bool], np.ndarray] = {}

    def values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """float32."""
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        if self._values is None:
            block = np.random.default_rng(0).standard_normal((1 << 22) - 3, np.float32) * np.float32(STD)
            self._values = np.resize(block, self._largest + _SPARE)
        start = self._places[name]
        values = self._values[start : start + shape[0] * shape[1]].reshape(shape)
        return values * np.float32(self._scale) if self._is_small(name) else values

    def packed(self, name: str, shape: tuple[int, ...], type_name: str) -> PackedMatrix:
        """In blocks of a type, or as bfloat16."""
        key = type_name, self._is_small(name)
        if key not in self._packed:
            self._packed[key] = self._blocks(type_name, STD * (self._scale if key[1] else 1.0))
        blocks = self._packed[key]
        n = shape[0] * shape[1] // _values_in(type_name)
        start = self._places[name]
        return PackedMatrix(blocks[start : start + n].reshape(shape[0], -1), type_name)

    def _blocks(self, type_name: str, std: float) -> np.ndarray:
        """uint8 [blocks, bytes]."""
        size = _values_in(type_name)
        if type_name != "BF16":
            return weight_blocks(type_name, self._largest + _SPARE * size, std, seed=0)
        block = np.random.default_rng(0).standard_normal((1 << 22) - 3, np.float32) * np.float32(std)
        halves = np.resize((block.view(np.uint32) >> 16).astype(np.uint16), self._largest + _SPARE)
        return halves.view(np.uint8).reshape(-1, 2)

    def _is_small(self, name: str) -> bool:
        return name.endswith(("attn_output.weight", "ffn_down.weight"))


def _values_in(type_name: str) -> int:
    """Of a block."""
    from entrenar_core.codecs.registry import codec_for

    return codec_for(type_name).block_size


def build_model(task: Task, backend: Any) -> LanguageModel:
    """Random weights: trained, or frozen as bfloat16, or frozen with the matrices of layers in blocks of four bits."""
    spec = spec_of(task.sizes)
    shapes = expected_shapes(spec)
    random, weights = RandomWeights(shapes, spec.num_layers), {}
    for name, shape in shapes.items():
        is_frozen_matrix = task.kind != "full" and len(shape) > 1
        if is_frozen_matrix:
            in_blocks = task.kind == "qlora" and name.startswith("blk.")
            packed = random.packed(name, shape, FOUR_BITS if in_blocks else "BF16")
            weights[name] = PackedWeight(name, packed, backend)
        else:
            values = backend.asarray(random.values(name, shape))
            weights[name] = Tensor(values, backend, requires_grad=task.kind == "full", name=name)
    return LanguageModel(spec, weights, backend, checkpoint_activations=task.checkpointing)


class OurTrainer:
    """Fulfils `Trainer`.

    Args:
        task: what is trained.
        backend: where it computes.
        give_back: lets go of its memory that no array is in.
    """

    def __init__(self, task: Task, backend: CudaBackend, give_back: Callable[[], None]) -> None:
        self._backend = backend
        self.give_back = give_back
        self._model = build_model(task, backend)
        if task.kind != "full":
            inject_lora(self._model, LoRASettings(RANK, float(RANK), 0.0, TARGETS), 0)
        self._optimizer = AdamW(self._model.trainable(), weight_decay=0.01)
        self._batch = random_batch(task.sizes.vocab, task.rows, task.length, 0)
        self._steps = 0

    def step(self) -> float:
        self._steps += 1
        return take_step(self._model, self._optimizer, self._batch, self._steps, lr=1e-4)

    def loss_of(self, step: float) -> float:
        return step

    def synchronize(self) -> None:
        self._backend.runtime.synchronize()

    def attention(self) -> str:
        return ", ".join(sorted(self._backend.attention_paths))

    def peak_bytes(self) -> int:
        return self._backend.runtime.peak_bytes()


def _build(task: Task) -> Trainer:
    import cupy

    from entrenar_core.backend.select import DeviceChoice, DeviceWish, make_backend

    backend = make_backend(DeviceChoice("cuda", "bfloat16"), DeviceWish("cuda"))
    assert isinstance(backend, CudaBackend)
    return OurTrainer(task, backend, cupy.get_default_memory_pool().free_all_blocks)


if __name__ == "__main__":
    serve_contestant(_build)
