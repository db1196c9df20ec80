"""Training steps that allocate and do not compute: what the arrays of a run take, found before anything is loaded.

The real model, tape and optimizer run on a backend that does nothing (`stages.idle`). Every buffer comes from a real
pool, so sizes, lifetimes and reuse are those of the run; but no page of it is ever touched, so it takes address space
and no memory, and a step takes milliseconds whatever the size of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.autograd.tape import Tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.gguf.tensor_info import TensorInfo, packed_shape
from entrenar_core.lora.inject import LoRASettings, adaptable_layers, attach, target_modules
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head
from entrenar_core.model.load import Shape, expected_shapes
from entrenar_core.model.module import PassKey
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.optim.build import build_optimizer
from entrenar_core.stages.idle import Idle, idle_cpu, idle_cuda
from entrenar_core.train.parts import Learner

BatchShape = tuple[int, int]
"""Rows and width of a batch."""

Teach = Callable[[LanguageModel], Learner]
"""Puts teachers beside a student: what is trained then."""


@dataclass(frozen=True)
class PassMemory:
    """Sizes in bytes of what the engine holds besides the weights.

    adapters: A and B of LoRA. optimizer: its state arrays. gradients: of the trained tensors. activations: what forward
    keeps for backward. work: everything else that the pool holds, free buffers and kernels' scratch memory included.
    threads: the budget that it was computed for. weights: of the model, where they are on a device (else 0).
    """

    adapters: int
    optimizer: int
    gradients: int
    activations: int
    work: int
    threads: int
    weights: int = 0


def dry_pass(
    spec: DecoderSpec,
    optimizer: OptimizerConfig,
    batches: Sequence[BatchShape],
    *,
    evaluated: Sequence[BatchShape] = (),
    shapes: Mapping[str, Shape] | None = None,
    lora: LoRASettings | None = None,
    held_as: Mapping[str, str] | None = None,
    head: HeadSpec | None = None,
    checkpoint_activations: bool = False,
    teach: Teach | None = None,
    threads: int | None = None,
    device_dtype: str | None = None,
) -> PassMemory:
    """Take one step for each batch shape and say what was held.

    Args:
        spec: of the model.
        optimizer: the section of the config.
        batches: rows and width of each; every position is taken to be supervised.
        evaluated: batches that only go forward, after the steps.
        shapes: of the weights; default: those that the spec implies.
        lora: settings of the adapters; None: all weights are trained.
        held_as: the block types in which matrices are held, by name; the others are float32.
        head: of a model that answers with a class or a number.
        checkpoint_activations: see `LanguageModel`.
        teach: puts teachers beside a language model.
        threads: thread budget; scratch memory grows with it.
        device_dtype: the type of activations on a GPU, whose memory it is then; None: the CPU's.

    Raises:
        ConfigError, ModelError: LoRA targets that name no layer.
        MemoryError: the system grants no address space of that size.
    """
    idle = idle_cpu(threads) if device_dtype is None else idle_cuda(device_dtype)
    backend, pool = idle.backend, idle.pool
    try:
        weights = _weights(shapes or expected_shapes(spec), idle, lora is None, held_as or {})
        model = _learner(spec, weights, backend, lora, head, checkpoint_activations)
        adapters = sum(tensor.data.nbytes for tensor in model.trainable().values()) if lora else 0
        of_weights = pool.statistics().in_use
        learner = teach(model) if teach is not None and isinstance(model, LanguageModel) else model
        steps = build_optimizer(optimizer, learner.trainable())
        before = pool.statistics().in_use
        kept = gradients = 0
        for number, shape in enumerate(batches):
            with np.errstate(all="ignore"):
                after_forward, after_backward = _step(learner, pool, _batch(shape, head), number)
            kept, gradients = max(kept, after_forward - before), max(gradients, after_backward - before)
            steps.zero_grad()
        for shape in evaluated:
            with no_grad(), np.errstate(all="ignore"):
                model.loss(_batch(shape, head), 1.0, None)
        rest = max(0, idle.held() - before - gradients)
        activations = min(kept, rest)  # the gradient of a trained output matrix is there after forward already
        state, work = before - of_weights, rest - activations
        return PassMemory(adapters, state, gradients, activations, work, backend.n_threads, of_weights)
    finally:
        backend.close()


def _step(model: Learner, pool: Pool, batch: Batch, number: int) -> tuple[int, int]:
    """Bytes in use after forward and after backward."""
    with Tape() as tape:
        loss = model.loss(batch, 1.0, PassKey(0, number, 0))
    after_forward = pool.statistics().in_use
    tape.backward(loss)
    return after_forward, pool.statistics().in_use


def _weights(
    shapes: Mapping[str, Shape], idle: Idle, trained: bool, held_as: Mapping[str, str]
) -> dict[str, Tensor | PackedWeight]:
    """Weights of these shapes whose memory nobody touches."""
    weights: dict[str, Tensor | PackedWeight] = {}
    for name, shape in shapes.items():
        if name in held_as:
            blocks = np.empty(packed_shape(shape, TYPE_BY_NAME[held_as[name]]), np.uint8)
            weights[name] = PackedWeight(name, PackedMatrix(blocks, held_as[name]), idle.backend)
        else:
            weights[name] = Tensor(idle.weight(shape), idle.backend, requires_grad=trained, name=name)
    return weights


def described(name: str, shape: Shape) -> TensorInfo:
    """A tensor of no file."""
    return TensorInfo(name, shape, "F32", 4 * math.prod(shape), 0)


def _learner(
    spec: DecoderSpec,
    weights: Mapping[str, Tensor | PackedWeight],
    backend: Backend,
    lora: LoRASettings | None,
    head: HeadSpec | None,
    checkpoint_activations: bool,
) -> LanguageModel | SequenceModel:
    model = LanguageModel(spec, weights, backend, checkpoint_activations=checkpoint_activations)
    if lora is not None:
        _adapt(model, lora)
    if head is None:
        return model
    size = (head.n_outputs, spec.hidden_size)
    return attach_head(model, head, np.empty(size, np.float32), np.empty(size[0], np.float32))


def _adapt(model: LanguageModel, lora: LoRASettings) -> None:
    """What `inject_lora` does, without drawing the start values."""
    model.freeze()
    layers = list(adaptable_layers(model))
    targets = target_modules(lora.targets, {layer.name.split(".")[-1] for _, _, layer in layers})
    for holder, attribute, layer in layers:
        if layer.name.split(".")[-1] in targets:
            n_out, n_in = layer.weight.shape
            a, b = np.empty((lora.rank, n_in), np.float32), np.empty((n_out, lora.rank), np.float32)
            setattr(holder, attribute, attach(layer, a, b, lora.scale, lora.dropout))


def _batch(shape: BatchShape, head: HeadSpec | None) -> Batch:
    """A batch that fills its rows; a head is asked at the last position, a language model at every one."""
    rows, width = shape
    positions = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
    zeros = np.zeros(shape, np.int32)
    labels = zeros if head is None else np.where(positions == width - 1, zeros, np.int32(IGNORE))
    values = None if head is None else np.zeros(shape)
    return Batch(zeros, labels, positions, zeros, rows * width, rows * (width if head is None else 1), values)
