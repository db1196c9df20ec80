"""Worker: the loss of one distillation step from hidden states to their gradient, in one of four ways.

fused: cross-entropy and divergence from a teacher whose logits are made chunk by chunk. plain: cross-entropy alone and
the teacher's logits, in the same chunks: what nobody can spare. known: the 64 likeliest tokens of a teacher are known
beforehand. alone: cross-entropy without a teacher. torch: all logits of both, log_softmax, kl_div and cross_entropy.
The output matrices are frozen; α = 0.5.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleave import serve

ALPHA = 0.5
KNOWN = 64


def operands(rows: int, vocab: int, width: int) -> tuple[np.ndarray, ...]:
    """Hidden states and matrices of student and teacher, and labels; logits are of size 1 to 10."""
    rng = np.random.default_rng(0)
    hidden, teacher_hidden = (3 * rng.standard_normal((rows, width), np.float32) for _ in range(2))
    matrix, teacher_matrix = (rng.standard_normal((vocab, width), np.float32) / np.sqrt(width) for _ in range(2))
    matrix, teacher_matrix = matrix.astype(np.float32), teacher_matrix.astype(np.float32)
    return hidden, matrix, teacher_hidden, teacher_matrix, rng.integers(0, vocab, rows).astype(np.int32)


def our_step(way: str, arrays: tuple[np.ndarray, ...], temperature: float, threads: int) -> Callable[[], float]:
    from entrenar_core.autograd.ops.distillation import DenseChunk, TopKChunk, linear_distillation
    from entrenar_core.autograd.ops.loss import linear_cross_entropy
    from entrenar_core.autograd.tape import Tape
    from entrenar_core.autograd.tensor import Tensor
    from entrenar_core.backend.cpu import CpuBackend
    from entrenar_core.backend.parameters import DistillationParams

    backend = CpuBackend(threads)
    states, matrix, teacher_states, teacher_matrix, labels = arrays
    head, teacher_head = backend.prepare_weight(matrix), backend.prepare_weight(teacher_matrix)
    vocab, n = len(matrix), len(labels)
    params = DistillationParams(temperature=temperature, alpha=ALPHA)
    rows_per_chunk = backend.loss_rows(vocab, head)

    class OnTheFly:
        def chunk(self, part: slice) -> DenseChunk:
            logits = backend.linear(teacher_states[part], teacher_head)
            backend.log_softmax(logits, temperature)
            return DenseChunk(logits)

    class Known:
        ids = np.argsort(np.random.default_rng(1).random((n, min(vocab, 4096))), axis=1)[:, :KNOWN].astype(np.int32)
        values = np.full((n, KNOWN), np.log(0.9 / KNOWN), np.float32)
        tail = np.full(n, np.log(0.1), np.float32)

        def chunk(self, part: slice) -> TopKChunk:
            return TopKChunk(self.ids[part], self.values[part], self.tail[part], vocab)

    teacher = Known() if way == "known" else OnTheFly()

    def step() -> float:
        hidden = Tensor(states, backend, requires_grad=True)
        with Tape() as tape:
            if way in {"fused", "known"}:
                loss = linear_distillation(hidden, head, labels, teacher, params, 1 / n)
            else:
                loss = linear_cross_entropy(hidden, head, labels, 1 / n)
        if way == "plain":
            for start in range(0, n, rows_per_chunk):
                backend.linear(teacher_states[start : start + rows_per_chunk], teacher_head)
        tape.backward(loss)
        return float(loss.data)

    return step


def torch_step(arrays: tuple[np.ndarray, ...], temperature: float, threads: int) -> Callable[[], float]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    states, matrix, teacher_states, teacher_matrix, labels = (torch.from_numpy(array) for array in arrays)
    labels = labels.long()

    def step() -> float:
        hidden = states.detach().requires_grad_()
        with torch.no_grad():
            teacher = teacher_states @ teacher_matrix.T
        logits = hidden @ matrix.T
        divergence = functional.kl_div(
            functional.log_softmax(logits / temperature, dim=-1),
            functional.log_softmax(teacher / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        loss = ALPHA * temperature**2 * divergence + (1 - ALPHA) * functional.cross_entropy(logits, labels)
        loss.backward()
        return float(loss.detach())

    return step


def resident(key: str) -> int:
    """Of this process, in bytes: VmRSS now, or VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("fused", "plain", "known", "alone", "torch"))
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    def prepared(arrays: tuple[np.ndarray, ...]) -> Callable[[], float]:
        if options.way == "torch":
            return torch_step(arrays, options.temperature, options.threads)
        return our_step(options.way, arrays, options.temperature, options.threads)

    prepared(operands(4, 100, 8))()  # libraries are loaded and kernels compiled before memory is looked at
    step = prepared(operands(options.rows, options.vocab, options.width))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS:")

    def timed() -> dict[str, Any]:
        started = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "loss": loss, "bytes": resident("VmHWM:") - before}

    serve(timed)


if __name__ == "__main__":
    main()
