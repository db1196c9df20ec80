"""Worker: one LoRA training step of ours on random data (forward, backward, clipping, AdamW)."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.interleave import serve
from benchmarks.shapes import BY_NAME, Shape
from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.data.batch import Batch
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.initialize import random_model
from entrenar_core.model.module import PassKey
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec
from entrenar_core.optim.adam import AdamW
from entrenar_core.optim.clip import clip


def spec_of(shape: Shape) -> DecoderSpec:
    """The decoder of a benchmark shape."""
    return DecoderSpec(
        traits=traits_of("llama", "benchmark"),
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocab,
        context_length=2048,
        norm_eps=1e-5,
        rope_theta=10000.0,
        rope_dimensions=shape.head_dim,
    )


def random_batch(vocab: int, rows: int, length: int, seed: int) -> Batch:
    """Random tokens, every position supervised."""
    tokens = np.random.default_rng(seed).integers(0, vocab, (rows, length + 1)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    starts = np.zeros((rows, length), np.int32)
    return Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), positions, starts, rows * length, rows * length)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="s134")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shape = BY_NAME[options.shape]
    backend = CpuBackend(options.threads)
    model = random_model(spec_of(shape), backend, 0)
    adapters = inject_lora(model, LoRASettings(16, 16.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj")), 0)
    optimizer = AdamW(adapters, weight_decay=0.01)
    batch = random_batch(shape.vocab, options.rows, options.length, 0)
    count = 0

    def step() -> dict[str, Any]:
        nonlocal count
        started = time.perf_counter()
        with Tape() as tape:
            loss = model.loss(batch, 1.0 / batch.n_supervised, PassKey(0, count, 0))
        tape.backward(loss)
        optimizer.step(1e-4, clip(adapters, 1.0))
        for tensor in adapters.values():
            tensor.zero_grad()
        count += 1
        return {"seconds": time.perf_counter() - started, "loss": float(loss.data)}

    serve(step)


if __name__ == "__main__":
    main()
