"""Contestants for races in tests: one with a device that holds so many rows, and our own on kernels of the host.

`python -m tests.benchmarks.gpu_contestant --seconds 0.5 --rows 4` says that its steps take half a second and that more
than four rows are too much.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.gpu.contestant import Trainer, serve_contestant
from benchmarks.gpu.task import Task


class Pretender:
    """Takes no time and says that it did."""

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        if options.builds_in_vain or task.rows > options.rows:
            raise MemoryError(f"{task.rows} rows")
        self.options = options
        self.steps = 0

    def step(self) -> int:
        self.steps += 1
        if self.steps == self.options.fails_at:
            raise ValueError("wrong")
        if self.steps == self.options.sleeps_at:
            time.sleep(60)
        return self.steps

    def loss_of(self, step: int) -> float:
        return 10.0 - step

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def attention(self) -> str:
        return "none"

    def peak_bytes(self) -> int:
        return 1000 * self.steps

    def give_back(self) -> None:
        """There is nothing to give back."""


def build_on_host(task: Task) -> Trainer:
    """Our contestant on kernels that run on the host."""
    from benchmarks.gpu.ours import OurTrainer
    from entrenar_core.backend.cuda import CudaBackend
    from tests.cuda_host.host_runtime import HostRuntime

    return OurTrainer(task, CudaBackend(HostRuntime(), "bfloat16"), lambda: None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--on-host", action="store_true")
    parser.add_argument("--builds-in-vain", action="store_true")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--fails-at", type=int, default=0)
    parser.add_argument("--sleeps-at", type=int, default=0)
    options = parser.parse_args()
    serve_contestant(build_on_host if options.on_host else lambda task: Pretender(task, options))


if __name__ == "__main__":
    main()
