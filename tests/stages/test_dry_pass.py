"""A step that does not compute allocates what a real one does, to the byte, and takes no memory itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.tasks import Task
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HeadSpec, SequenceModel, new_head
from entrenar_core.model.initialize import random_model
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.module import PassKey
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.optim.build import build_optimizer
from entrenar_core.stages.dry_pass import PassMemory, dry_pass
from tests.model.tiny import tiny_spec

ADAM, SGD, MOMENTUM = OptimizerConfig(), OptimizerConfig(name="sgd"), OptimizerConfig(name="sgd", momentum=0.9)
LORA = LoRASettings(rank=4, alpha=8.0, dropout=0.1, targets="all")
CLASSES = HeadSpec(Task.CLASSIFICATION, ("a", "b", "c"), "text", "label")
NUMBERS = HeadSpec(Task.REGRESSION, (), "text", "target")
BATCHES = [(4, 64), (2, 96), (4, 64)]


def small_spec(architecture: str = "llama", **changes: Any) -> DecoderSpec:
    sizes = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 160}
    return tiny_spec(architecture, **{**sizes, "vocab_size": 500, "context_length": 256, **changes})


def full_batch(rows: int, width: int, head: HeadSpec | None) -> Batch:
    positions = np.tile(np.arange(width, dtype=np.int32), (rows, 1))
    labels = np.zeros((rows, width), np.int32)
    if head is not None:
        labels[:, :-1] = IGNORE
    zeros = np.zeros((rows, width), np.int32)
    supervised = int((labels != IGNORE).sum())
    return Batch(zeros, labels, positions, zeros, rows * width, supervised, np.zeros((rows, width), np.float32))


def really_held(
    spec: DecoderSpec,
    optimizer: OptimizerConfig,
    lora: LoRASettings | None,
    head: HeadSpec | None,
    checkpointing: bool,
    held_as: Mapping[str, str],
) -> int:
    """Bytes in the pool after the same steps, computed."""
    backend = CpuBackend(2)
    model: LanguageModel | SequenceModel = random_model(spec, backend, 0, checkpoint_activations=checkpointing)
    if held_as:
        weights = {
            name: PackedWeight(name, PackedMatrix.encode(tensor.numpy(), held_as[name]), backend)
            if name in held_as
            else tensor
            for name, tensor in model.parameters().items()
        }
        model = LanguageModel(spec, weights, backend, checkpoint_activations=checkpointing)
    if lora is not None:
        inject_lora(model, lora, 0)
    if head is not None:
        assert isinstance(model, LanguageModel)
        model = new_head(model, head, 0)
    steps = build_optimizer(optimizer, model.trainable())
    for number, (rows, width) in enumerate(BATCHES):
        batch = full_batch(rows, width, head)
        with Tape() as tape:
            loss = model.loss(batch, 1.0 / batch.n_supervised, PassKey(0, number, 0))
        tape.backward(loss)
        del loss, tape
        steps.step(0.001)
        steps.zero_grad()
    held = backend.pool.statistics().held
    backend.close()
    return held


def sum_of(found: PassMemory) -> int:
    """Everything that comes from the pool; adapters are arrays of their own."""
    return found.optimizer + found.gradients + found.activations + found.work


PACKED = {name: "Q4_0" for name, shape in expected_shapes(small_spec()).items() if len(shape) == 2}
"""Every matrix, the embedding and the output matrix too."""

CASES: Mapping[str, dict[str, Any]] = {
    "full": {},
    "full with a tied embedding": {"spec": small_spec(tie_embeddings=True)},
    "biases": {"spec": small_spec("qwen2")},
    "norms of heads": {"spec": small_spec("qwen3")},
    "checkpointing": {"checkpointing": True},
    "sgd": {"optimizer": SGD},
    "momentum": {"optimizer": MOMENTUM},
    "lora": {"lora": LORA},
    "lora with checkpointing": {"lora": LORA, "checkpointing": True},
    "classes": {"head": CLASSES},
    "lora for numbers": {"lora": LORA, "head": NUMBERS},
    "packed": {"lora": LORA, "held_as": PACKED},
    "packed, for classes": {"lora": LORA, "held_as": PACKED, "head": CLASSES},
}


@pytest.mark.parametrize("name", CASES)
def test_it_holds_what_a_real_step_holds(name: str) -> None:
    case = {"spec": small_spec(), "optimizer": ADAM, "lora": None, "head": None, "checkpointing": False, **CASES[name]}
    spec, optimizer = case.pop("spec"), case.pop("optimizer")
    checkpointing = case.pop("checkpointing")
    held_as = case.get("held_as", {})
    found = dry_pass(spec, optimizer, BATCHES, threads=2, checkpoint_activations=checkpointing, **case)
    real = really_held(spec, optimizer, case["lora"], case["head"], checkpointing, held_as)
    assert sum_of(found) == pytest.approx(real, rel=0.02)  # copies of rows come from the pool here


def test_the_optimizer_keeps_two_one_or_no_array_of_the_weights() -> None:
    weights = sum(4 * int(np.prod(shape)) for shape in expected_shapes(small_spec()).values())
    kept = [dry_pass(small_spec(), one, [(2, 32)], threads=1).optimizer for one in (ADAM, MOMENTUM, SGD)]
    assert kept[0] == pytest.approx(2 * weights, rel=0.125)  # the pool rounds sizes up by an eighth at most
    assert kept[1] == pytest.approx(weights, rel=0.125)
    assert kept[2] == 0


def test_activations_grow_with_the_rows() -> None:
    few, many = (dry_pass(small_spec(), ADAM, [(rows, 64)], lora=LORA, threads=2).activations for rows in (4, 16))
    assert many == pytest.approx(4 * few, rel=0.1)


def test_checkpointing_keeps_fewer_activations() -> None:
    spec = small_spec(num_layers=8)
    all_of_them, some = (
        dry_pass(spec, ADAM, [(4, 64)], lora=LORA, threads=2, checkpoint_activations=wanted).activations
        for wanted in (False, True)
    )
    assert some < all_of_them / 2


def test_a_packed_base_needs_room_for_decoded_tiles() -> None:
    spec = small_spec()
    shapes = {
        name: shape for name, shape in expected_shapes(spec).items() if name.startswith("blk.") and len(shape) == 2
    }
    dense, packed = (
        dry_pass(spec, ADAM, [(1, 16)], lora=LORA, threads=2, held_as=held).work
        for held in ({}, dict.fromkeys(shapes, "Q4_0"))
    )
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    assert packed - dense >= 4 * largest  # whole, for it is smaller than a tile


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see the resident memory")
def test_a_model_of_billions_of_weights_takes_no_memory() -> None:
    spec = replace(
        small_spec(),
        num_layers=32,
        hidden_size=4096,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=14336,
        vocab_size=128256,
        context_length=4096,
    )
    before = resident_bytes()
    found = dry_pass(spec, ADAM, [(4, 1024)], lora=LORA, threads=2)
    assert found.activations > 20 << 30
    assert resident_bytes() - before < 100 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
