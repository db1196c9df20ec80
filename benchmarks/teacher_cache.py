"""What it takes to keep a teacher's predictions, and what is lost by keeping 64 of a vocabulary's tokens.

On the shared model of 7 M parameters (the teacher) and gsm8k: the build of a cache against the teacher's forward passes
over the same batches, what a training step waits for the cache and for the teacher, sizes, and the loss and gradient of
a student (the model in Q4_0) that learns from the cache against those of one that learns from the teacher itself.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.interleave import medians_in_turn
from benchmarks.real_data import ABSENT, gsm8k_section, shared_data
from entrenar_core.autograd.ops.distillation import TeacherRows
from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind
from entrenar_core.config.load import config_from_text
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.loader import Loader
from entrenar_core.data.teacher_shard import CacheDtype
from entrenar_core.distill.cache import CachedTeacher, CacheRequest, cache_bytes, open_or_build
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.teachers import Teacher, Teachers, TeacherSignal
from entrenar_core.distill.vocabulary import SharedVocabulary, map_tokens, share_vocabulary
from entrenar_core.events import SilentReporter
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_mapped, load_model
from entrenar_core.model.module import PassKey
from entrenar_core.model.token_texts import read_tokens
from entrenar_core.stages.base_model import open_base
from entrenar_core.stages.dataset import load_datasets, open_data

EXAMPLES, ROUNDS = 150, 3
"""Of gsm8k, for the speeds; counted rounds of what is timed in turn."""

STEPS = 20
"""Of training, whose reading is timed."""

BATCHES, LENGTH, EXAMPLES_FOR_LOSSES = 4, 512, 40
"""Batches of two packed rows, drawn from so many examples, over which losses are compared."""

TOP_K = 64
TEMPERATURES = (1.0, 2.0)
ROWS_PER_CHUNK = 1024
"""Of the vocabulary's 4096 tokens this is what the fused loss takes at once."""

NO_MORE_THAN = 0.10
"""Of the teacher's own time: what the rest of a build should take."""

KINDS: Sequence[DivergenceKind] = ("forward_kl", "reverse_kl", "jensen_shannon")

CACHES: Sequence[tuple[int, CacheDtype]] = (
    (TOP_K, "float32"),
    (TOP_K, "float16"),
    (512, "float32"),
    (4096, "float32"),
    (4096, "float16"),
)
"""Tokens that are kept and their type, for the losses; the last ones keep everything."""


@dataclass
class Recorded:
    """A teacher that remembers what it was asked, so that it can be asked the same again."""

    signal: TeacherSignal
    asked: list[tuple[Batch, list[slice]]] = field(default_factory=list)

    def rows(self, batch: Batch) -> TeacherRows:
        parts: list[slice] = []
        self.asked.append((batch, parts))
        return _RecordedRows(self.signal.rows(batch), parts)

    def ask_again(self) -> None:
        """The same questions, the answers thrown away."""
        for batch, parts in self.asked:
            rows = self.signal.rows(batch)
            for part in parts:
                rows.chunk(part)


@dataclass(frozen=True)
class _RecordedRows:
    rows: TeacherRows
    parts: list[slice]

    def chunk(self, part: slice) -> Any:
        self.parts.append(part)
        return self.rows.chunk(part)


@dataclass(frozen=True)
class Setting:
    """The teacher, the student's file, the data, and a folder for caches."""

    teacher: LanguageModel
    student: Path
    vocabulary: SharedVocabulary
    backend: CpuBackend
    examples: Examples
    folder: Path

    def cached(
        self, indices: np.ndarray, top_k: int = TOP_K, dtype: CacheDtype = "float32", temperature: float = 1.0
    ) -> CachedTeacher:
        """A cache for the examples at `indices`; what is there of it is used."""
        folder = self.folder / f"cache-{top_k}-{dtype}-{temperature:g}-{len(indices)}"
        return self.build(folder, self.at(temperature), indices, top_k, dtype)

    def build(
        self, folder: Path, signal: TeacherSignal, indices: np.ndarray, top_k: int, dtype: CacheDtype = "float32"
    ) -> CachedTeacher:
        found = open_or_build(
            CacheRequest(folder, {}, self.vocabulary.n, top_k, dtype),
            self.examples,
            indices,
            backend=self.backend,
            teachers=lambda: signal,
            reporter=SilentReporter(),
        )
        assert found is not None
        return found

    def at(self, temperature: float) -> Teachers:
        """The teacher at a temperature."""
        return Teachers(
            [Teacher("base-7m", self.teacher)], self.vocabulary, DistillationParams(temperature=temperature)
        )

    def loader(self, indices: np.ndarray) -> Loader:
        """Batches as training has them."""
        return Loader(self.examples, batch_size=2, seq_len=LENGTH, packing=True, seed=1, indices=indices)


def run() -> list[str]:
    """Build, reading, sizes, losses."""
    data = shared_data()
    if data is None:
        return [f"teacher_cache: {ABSENT}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-cache-") as name, opened(data, Path(name)) as setting:
        return [*building(setting), *reading(setting), *losses(setting)]


@contextmanager
def opened(data: Path, scratch: Path) -> Iterator[Setting]:
    """Everything read, the student written."""
    model, student = data / "models" / "base-7m-f16.gguf", scratch / "student-q4_0.gguf"
    command = [sys.executable, "-m", "entrenar_cli", "quantize", str(model), "-o", str(student), "--type", "q4_0"]
    subprocess.run(command, check=True, capture_output=True)
    config = config_from_text(
        json.dumps({"model": {"path": str(model)}, "data": gsm8k_section(data) | {"cache": False}}), "gsm8k"
    )
    silent, backend = SilentReporter(), CpuBackend(2)
    base = open_base(config, silent)
    try:
        examples = load_datasets(config, base, open_data(config, base, silent), silent).first_examples()
        with GGUFFile.open(model) as file:
            tokens = read_tokens(file.metadata, base.spec.vocab_size, str(model))
            vocabulary = share_vocabulary([map_tokens(tokens, tokens, None, 1.0)])
            yield Setting(load_mapped(file, backend), student, vocabulary, backend, examples, scratch)
    finally:
        base.close()
        backend.close()


def building(setting: Setting) -> list[str]:
    """A new cache each round, and the same questions to the teacher alone, in turn."""
    indices = np.arange(EXAMPLES)
    recorded, number = Recorded(setting.at(1.0)), count()
    processor: dict[str, list[float]] = {"build": [], "ask": []}

    def build() -> None:
        started = time.process_time()
        recorded.asked.clear()
        setting.build(setting.folder / f"build-{next(number)}", recorded, indices, TOP_K)
        processor["build"].append(time.process_time() - started)

    def ask() -> None:
        started = time.process_time()
        recorded.ask_again()
        processor["ask"].append(time.process_time() - started)

    whole, teacher = medians_in_turn(ROUNDS, build, ask)
    busy, asking = (statistics.median(seconds[1:]) for seconds in processor.values())
    n_targets = sum(batch.n_supervised for batch, _ in recorded.asked)
    n_tokens = sum(batch.n_tokens for batch, _ in recorded.asked)
    positions = sum(batch.tokens.size for batch, _ in recorded.asked)
    verdict = "within" if whole / teacher - 1 < NO_MORE_THAN else "ABOVE"
    return [
        f"Cache of the {TOP_K} likeliest of {setting.vocabulary.n} tokens; {EXAMPLES} examples of gsm8k, {n_tokens}"
        f" tokens of which {n_targets} are targets, 2 threads, medians of {ROUNDS} rounds in turn",
        f"  build {whole:.2f} s, the teacher alone {teacher:.2f} s: {100 * (whole / teacher - 1):+.1f} % ({verdict}"
        f" {100 * NO_MORE_THAN:.0f} %); by processor time {100 * (busy / asking - 1):+.1f} %,"
        f" {1e6 * (busy - asking) / n_targets:.1f} µs a target;"
        f" {100 * (1 - n_tokens / positions):.1f} % of what the teacher reads is padding",
    ]


def reading(setting: Setting) -> list[str]:
    """What a step waits, and what the cache takes on the disk."""
    indices = np.arange(EXAMPLES)
    batches = list(islice(setting.loader(indices).epoch(0), STEPS))
    lines = []

    def ask(signal: TeacherSignal) -> None:
        for batch in batches:
            rows = signal.rows(batch)
            for start in range(0, batch.n_supervised, ROWS_PER_CHUNK):
                rows.chunk(slice(start, start + ROWS_PER_CHUNK))

    for dtype in get_args(CacheDtype):
        cached = setting.cached(indices, TOP_K, dtype)
        teachers = setting.at(1.0)
        read, asked = medians_in_turn(ROUNDS, partial(ask, cached), partial(ask, teachers))
        folder, n_targets = cached.cache.folder, cached.cache.plan.n_targets
        sizes = [path.stat().st_size for path in folder.iterdir()]
        expected = cache_bytes(n_targets, TOP_K, setting.vocabulary.n, dtype)
        per_step = sum(batch.n_supervised for batch in batches) / len(batches)
        lines += [
            f"  {dtype}: a step of {per_step:.0f} targets reads {1e3 * read / len(batches):.2f} ms, the teacher takes"
            f" {1e3 * asked / len(batches):.1f} ms: {asked / read:.0f} times as long",
            f"  {dtype}: {sum(sizes) / 2**20:.2f} MiB in {len(sizes) - 2} shards, {sum(sizes) / n_targets:.1f} bytes a"
            f" target, {n_targets * setting.vocabulary.n * 4 / sum(sizes):.0f} times less than all log-probabilities;"
            f" said before: {expected / 2**20:.2f} MiB",
        ]
    return lines


def losses(setting: Setting) -> list[str]:
    """Loss and gradient with each cache against those with the teacher, at each temperature."""
    indices = np.arange(EXAMPLES_FOR_LOSSES)
    batches = [setting.loader(indices).batch(0, index) for index in range(BATCHES)]
    n_targets = sum(batch.n_supervised for batch in batches)
    lines = [
        f"Student in Q4_0: its divergence from the teacher over {n_targets} targets, and the gradient of all weights"
        " (relative distance)"
    ]
    for temperature in TEMPERATURES:
        live = setting.at(temperature)
        caches = {key: setting.cached(indices, *key, temperature) for key in CACHES}
        known = {kind: learned(setting, live, kind, temperature, batches) for kind in KINDS}
        of_teacher = ", ".join(f"{kind} {known[kind][0]:.5f}" for kind in KINDS)
        lines.append(f"  temperature {temperature:g}, learned from the teacher: {of_teacher}")
        for (top_k, dtype), cached in caches.items():
            found = []
            for kind in KINDS:
                loss, gradient = learned(setting, cached, kind, temperature, batches)
                apart = np.linalg.norm(gradient - known[kind][1]) / np.linalg.norm(known[kind][1])
                found.append(f"{kind} {100 * (loss / known[kind][0] - 1):+.4f} % ({100 * apart:.4f} %)")
            lines.append(
                f"    top {top_k:4} {dtype} ({100 * cached.kept_mass():6.2f} % of the mass): {', '.join(found)}"
            )
    return lines


def learned(
    setting: Setting, signal: TeacherSignal, kind: DivergenceKind, temperature: float, batches: Sequence[Batch]
) -> tuple[float, np.ndarray]:
    """The mean divergence over all targets of some batches, and the gradient of every weight, in one float64 vector."""
    params = DistillationParams(kind, temperature, alpha=1.0)
    n_targets, total = sum(batch.n_supervised for batch in batches), 0.0
    with GGUFFile.open(setting.student) as file:
        student = load_model(file, setting.backend, trainable=True)
        learner = DistilledModel(student, signal, setting.vocabulary, params)
        for index, batch in enumerate(batches):
            with Tape() as tape:
                loss = learner.loss(batch, 1 / n_targets, PassKey(0, index, 0))
            tape.backward(loss)
            total += float(loss.data)
    gradients = [tensor.grad for _, tensor in sorted(learner.trainable().items())]
    return total, np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in gradients if one is not None])
