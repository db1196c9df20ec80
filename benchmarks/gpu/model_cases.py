"""A whole small random model's loss and gradients on the device, against float64 and against the CPU; and training.

Weights are numbers that bfloat16 holds, so what differs is what is computed with them. The error of gradients is that
of the worst tensor: |g - truth| over |truth|, both as Euclidean norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np

from benchmarks.gpu.attention_cases import is_our_own, paths_since
from benchmarks.gpu.compare import Finding, rounded
from benchmarks.gpu.random_blocks import weight_blocks
from benchmarks.gpu.sizes import ModelSize
from benchmarks.gpu.subject import DTYPES, TRUTH, Subject
from benchmarks.gpu.training_step import take_step
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.teachers import Teacher, Teachers
from entrenar_core.distill.vocabulary import TokenMap, share_vocabulary
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.module import PassKey
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.optim.adam import AdamW
from entrenar_core.train.anomaly import Pass
from entrenar_core.train.step import accumulate_gradient

NDArray = np.ndarray[Any, np.dtype[Any]]

LORA = LoRASettings(rank=8, alpha=16.0, dropout=0.1, targets="all")
TOLERANCE = {"float32": 2e-5, "bfloat16": 5e-2}
"""Of gradients: a tensor's error as a share of its length."""
LOSS_TOLERANCE = {"float32": 1e-6, "bfloat16": 5e-3}
FOLLOWS_WITHIN = 0.02
"""What losses may differ by from those of the CPU while training."""


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        title: of its lines.
        architecture: of the model.
        lora: adapters on every linear layer of a frozen model.
        held_as: the type of the frozen matrices, the embedding and the output matrix among them.
        checkpoints: activations are computed again in backward.
        divergence: of a student from a teacher; empty: the plain loss.
    """

    title: str
    architecture: str = "llama"
    lora: bool = False
    held_as: str = "BF16"
    checkpoints: bool = False
    divergence: Any = ""


PLANS = (
    Plan("full"),
    Plan("full, checkpointing", checkpoints=True),
    Plan("full, qwen2", architecture="qwen2"),
    Plan("full, qwen3", architecture="qwen3"),
    Plan("LoRA", lora=True),
    Plan("LoRA, checkpointing", lora=True, checkpoints=True),
    Plan("QLoRA Q4_0", lora=True, held_as="Q4_0"),
    Plan("QLoRA Q4_K, checkpointing", lora=True, held_as="Q4_K", checkpoints=True),
    Plan("distillation, forward KL", divergence="forward_kl"),
    Plan("LoRA, distillation, Jensen-Shannon", lora=True, divergence="jensen_shannon"),
)


def spec_of(size: ModelSize, architecture: str) -> DecoderSpec:
    """The decoder of a size."""
    head_dim = size.hidden // size.heads
    return DecoderSpec(
        traits=traits_of(architecture, "gpu_check"),
        num_layers=size.layers,
        hidden_size=size.hidden,
        num_heads=size.heads,
        num_kv_heads=size.kv_heads,
        head_dim=head_dim,
        intermediate_size=size.ffn,
        vocab_size=size.vocab,
        context_length=1024,
        norm_eps=1e-5,
        rope_theta=10000.0,
        rope_dimensions=head_dim,
    )


def weight_values(name: str, shape: tuple[int, ...], seed: int) -> NDArray:
    """float32 values that bfloat16 holds; matrices keep the size of what they multiply."""
    noise = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape)
    if name.endswith("norm.weight"):
        values = 1 + 0.1 * noise
    elif name.endswith((".bias", "lora_b")):
        values = 0.1 * noise
    else:
        values = noise * (0.5 if name == "token_embd.weight" else shape[-1] ** -0.5)
    return rounded(values, "bfloat16").astype(np.float32)


def build_model(backend: Any, size: ModelSize, plan: Plan, seed: int, *, trainable: bool) -> LanguageModel:
    """A random model; equal seeds give equal weights on every backend."""
    spec = spec_of(size, plan.architecture)
    weights = {
        name: _weight(backend, name, shape, plan, seed, trainable) for name, shape in expected_shapes(spec).items()
    }
    return LanguageModel(spec, weights, backend, checkpoint_activations=plan.checkpoints)


def _weight(
    backend: Any, name: str, shape: tuple[int, ...], plan: Plan, seed: int, trainable: bool
) -> Tensor | PackedWeight:
    is_matrix = len(shape) > 1
    if is_matrix and not trainable and plan.held_as != "BF16":
        return PackedWeight(name, packed_values(name, shape, plan.held_as, seed), backend)
    values = weight_values(name, shape, seed)
    if is_matrix and not trainable and backend.takes_floats_packed:
        return PackedWeight(name, PackedMatrix.encode(values, "BF16"), backend)
    return Tensor(backend.asarray(values), backend, requires_grad=trainable, name=name)


def packed_values(name: str, shape: tuple[int, ...], type_name: str, seed: int) -> PackedMatrix:
    """A matrix in blocks whose values have the size that `weight_values` gives."""
    std = 0.5 if name == "token_embd.weight" else shape[-1] ** -0.5
    return PackedMatrix(
        weight_blocks(type_name, shape[0] * shape[1], std, crc32(name.encode()) + seed).reshape(shape[0], -1), type_name
    )


def build_learner(backend: Any, size: ModelSize, plan: Plan) -> Any:
    """What a plan trains, on a backend: a model, maybe with adapters, maybe with a teacher."""
    model = build_model(backend, size, plan, seed=0, trainable=not plan.lora)
    if plan.lora:
        for name, tensor in inject_lora(model, LORA, seed=0).items():
            if name.endswith("lora_b"):
                tensor.assign(weight_values(name, tensor.shape, seed=0))
    if not plan.divergence:
        return model
    teacher = build_model(backend, size, replace(plan, held_as="BF16"), seed=1, trainable=False)
    vocabulary = share_vocabulary([_same_tokens(size.vocab)])
    params = DistillationParams(plan.divergence, temperature=2.0, alpha=0.5)
    teachers = Teachers([Teacher("teacher", teacher)], vocabulary, params)
    return DistilledModel(model, teachers, vocabulary, params)


def _same_tokens(vocab: int) -> TokenMap:
    ids = np.arange(vocab, dtype=np.int32)
    return TokenMap("teacher", ids, ids, vocab, vocab)


def packed_batch(size: ModelSize, seed: int = 0) -> Batch:
    """Two rows: documents one after another, a prompt that is not supervised, and padding at the end of one."""
    rng, width = np.random.default_rng([7, seed]), size.length
    cuts = [[0, width // 3, width // 2, width], [0, 2 * width // 3, width - 2]]
    shape = (2, width)
    tokens, labels = rng.integers(0, size.vocab, shape).astype(np.int32), np.full(shape, IGNORE, np.int32)
    positions, starts = np.zeros(shape, np.int32), np.tile(np.arange(width, dtype=np.int32), (2, 1))
    for row, borders in enumerate(cuts):
        for begin, end in pairwise(borders):
            positions[row, begin:end] = np.arange(end - begin)
            starts[row, begin:end] = begin
            labels[row, begin : end - 1] = tokens[row, begin + 1 : end]
    labels[0, : width // 6] = IGNORE
    return Batch(tokens, labels, positions, starts, 2 * width - 2, int((labels >= 0).sum()))


@dataclass(frozen=True)
class Gradient:
    """A loss, and the gradient of every trainable tensor on the host."""

    loss: float
    tensors: dict[str, NDArray]

    def distance(self, truth: Gradient) -> float:
        """The error of the worst tensor; NaN if names differ."""
        if self.tensors.keys() != truth.tensors.keys():
            return float("nan")
        return float(np.max([_distance(self.tensors[name], truth.tensors[name]) for name in truth.tensors]))

    def equals(self, other: Gradient) -> bool:
        return self.loss == other.loss and all(np.array_equal(self.tensors[n], other.tensors[n]) for n in self.tensors)


def _distance(actual: NDArray, truth: NDArray) -> float:
    difference = actual.astype(np.float64) - truth.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(truth.astype(np.float64)))


def gradient_of(learner: Any, batch: Batch) -> Gradient:
    """Of the mean loss over the batch's supervised tokens, with the dropout of one step."""
    parameters = learner.trainable()
    for tensor in parameters.values():
        tensor.zero_grad()
    one = Pass("batch", batch, 1.0 / batch.n_supervised, PassKey(1, 2, 3))
    done = accumulate_gradient(learner, [one])
    assert done is not None
    loss = float(learner.backend.to_host(done.total()))
    return Gradient(loss, {n: np.array(learner.backend.to_host(t.grad)) for n, t in parameters.items()})


def whole_model(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """Loss and gradients of a plan against float64 in both element types, and against the CPU in float32."""
    size = subject.sizes.model
    batch = packed_batch(size)
    truth = gradient_of(build_learner(TRUTH, size, plan), batch)
    for dtype in DTYPES:
        backend = subject.backends[dtype]
        learner = build_learner(backend, size, plan)
        found = gradient_of(learner, batch)
        may_differ = _went_to_a_library(backend) and not subject.deterministic
        faults = () if may_differ or found.equals(gradient_of(learner, batch)) else _DIFFERS
        loss_error = abs(found.loss - truth.loss) / abs(truth.loss)
        yield Finding(f"{plan.title}: loss", dtype, loss_error, LOSS_TOLERANCE[dtype], faults)
        yield Finding(f"{plan.title}: gradients", dtype, found.distance(truth), TOLERANCE[dtype])
        if dtype == "float32":
            cpu = gradient_of(build_learner(subject.cpu, size, plan), batch)
            title = f"{plan.title}: gradients beside the CPU backend's"
            yield Finding(title, dtype, found.distance(cpu), TOLERANCE[dtype])


_DIFFERS = ("a second pass gave other bits",)


def _went_to_a_library(backend: Any) -> bool:
    """Whether attention did since the last question, so that bits may differ from time to time."""
    return any(not is_our_own(path) for path in paths_since(backend))


def same_bits(subject: Subject) -> Iterator[Finding]:
    """A deterministic run's gradients, twice, and beside those of the usual one."""
    size = subject.sizes.model
    batch, plan = packed_batch(size), Plan("full")
    learner = build_learner(subject.same_each_time.backends["bfloat16"], size, plan)
    found, again = gradient_of(learner, batch), gradient_of(learner, batch)
    usual = gradient_of(build_learner(subject.backends["bfloat16"], size, plan), batch)
    faults = () if found.equals(again) else _DIFFERS
    yield Finding("full, deterministic: gradients", "bfloat16", found.distance(usual), TOLERANCE["bfloat16"], faults)


def losses_of_training(backend: Any, size: ModelSize, plan: Plan, steps: int) -> list[float]:
    """The loss of each step of AdamW on four batches in turn, clipped as runs clip by default."""
    learner = build_learner(backend, size, plan)
    optimizer = AdamW(learner.trainable(), weight_decay=0.01)
    batches = [packed_batch(size, seed) for seed in range(4)]
    return [take_step(learner, optimizer, batches[step % len(batches)], step, lr=1e-3) for step in range(steps)]


def training(subject: Subject) -> Iterator[Finding]:
    """Steps of training, full and LoRA, beside the same steps on the CPU."""
    size, steps = subject.sizes.model, subject.sizes.steps
    for plan in (Plan("full"), Plan("LoRA", lora=True)):
        expected = losses_of_training(subject.cpu, size, plan, steps)
        for dtype in DTYPES:
            losses = losses_of_training(subject.backends[dtype], size, plan, steps)
            worst = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            falls = f"from {expected[0]:.2f} to {expected[-1]:.2f}"
            yield Finding(f"{plan.title}: {steps} steps beside the CPU, {falls}", dtype, worst, FOLLOWS_WITHIN)
