"""What a teacher costs: the time of a step with it, and the memory that it adds to the whole command.

Time: one process takes in turn a student's step on the cross-entropy, the forward pass of the teacher with all its
logits, and a step with that teacher; the last should take little more than the first two together. Memory: `entrenar
train` on the same student with and without a teacher, whose file is mapped; a page of it that is in memory counts once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.big_lora import texts
from benchmarks.command import Watched, train_command
from benchmarks.lora_step_ours import random_batch
from benchmarks.random_gguf import write_random_gguf
from benchmarks.real_data import ABSENT, gsm8k_section, shared_data
from benchmarks.shapes import BY_NAME, S134, Shape

LIMIT = 1.15
"""A step with a teacher, against a step without and the teacher's forward pass."""

ROWS, LENGTH, ROUNDS = 2, 512, 7
HALF = replace(S134, name="s134 of 6 layers", layers=6)

Step = Callable[[], float]
"""One unit of work; its seconds."""


@dataclass(frozen=True)
class Pair:
    """A student, trained in full or with LoRA, and the kind of blocks that its teacher is held in."""

    name: str
    student: Shape
    teacher: Shape
    kind: str
    lora: bool = False
    loss: str = "forward_kl"


PAIRS = (
    Pair("6 layers, in full", HALF, S134, "q4_k_m"),
    Pair("6 layers, in full, Jensen-Shannon", HALF, S134, "q4_k_m", loss="jensen_shannon"),
    Pair("12 layers, LoRA r16", S134, S134, "q8_0", lora=True),
    Pair("12 layers, LoRA r16", S134, S134, "f16", lora=True),
)


def run() -> list[str]:
    """A line for each pair, then the memory."""
    data = shared_data()
    if data is None:
        return [f"distill_run: {ABSENT}"]
    with tempfile.TemporaryDirectory(prefix="entrenar-distill-") as name:
        folder = Path(name)
        files = write_teachers(folder, S134, data)
        lines = [f"A step with a teacher ({S134.name}), B{ROWS} T{LENGTH}, 2 threads, {ROUNDS} rounds in turn"]
        lines += [speed(pair, files[pair.kind]) for pair in PAIRS]
        return lines + memory(folder, data)


def write_teachers(folder: Path, shape: Shape, data: Path) -> dict[str, Path]:
    """Random weights of a shape in each kind of blocks, as `entrenar quantize` writes them."""
    files = {kind: folder / f"{shape.name}-{kind}.gguf" for kind in ("f16", "q8_0", "q4_k_m")}
    write_random_gguf(files["f16"], shape, texts(data / "gsm8k" / "train.parquet"))
    for kind in ("q8_0", "q4_k_m"):
        arguments = ["quantize", str(files["f16"]), "-o", str(files[kind]), "--type", kind]
        subprocess.run([sys.executable, "-m", "entrenar_cli", *arguments], check=True, capture_output=True)
    return files


def speed(pair: Pair, teacher: Path) -> str:
    """The step with a teacher against its parts; the median over rounds of the ratio within each round."""
    from entrenar_core.backend.cpu import CpuBackend

    backend = CpuBackend(2)
    try:
        steps = _steps(pair, teacher, backend)
        taken = []
        for number in range(ROUNDS + 2):
            seconds = [step() for step in steps]
            if number >= 2:
                taken.append(seconds)
    finally:
        backend.close()
    ratios = [together / (alone + forward) for alone, forward, together in taken]
    alone, forward, together = (statistics.median(one[which] for one in taken) for which in range(3))
    ratio = statistics.median(ratios)
    verdict = "" if ratio <= LIMIT else f"  FAILED: above {LIMIT}"
    return (
        f"  {pair.name:34} teacher {pair.kind:7} student {alone:6.3f} s + teacher {forward:6.3f} s;"
        f" together {together:6.3f} s: {ratio:.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f}){verdict}"
    )


def _steps(pair: Pair, path: Path, backend: Any) -> tuple[Step, Step, Step]:
    """The student's step alone, the teacher's forward pass, and a step with the teacher."""
    from benchmarks.lora_step_ours import spec_of
    from entrenar_core.autograd.tape import Tape
    from entrenar_core.backend.parameters import DistillationParams
    from entrenar_core.distill.learner import DistilledModel
    from entrenar_core.distill.teachers import Teacher, Teachers
    from entrenar_core.distill.vocabulary import map_tokens, share_vocabulary
    from entrenar_core.gguf.reader import GGUFFile
    from entrenar_core.lora.inject import LoRASettings, inject_lora
    from entrenar_core.model.initialize import random_model
    from entrenar_core.model.load import load_mapped
    from entrenar_core.model.module import PassKey
    from entrenar_core.model.token_texts import read_tokens
    from entrenar_core.optim.adam import AdamW
    from entrenar_core.optim.clip import clip
    from entrenar_core.train.parts import Learner

    file = GGUFFile.open(path)
    student = random_model(spec_of(pair.student), backend, 0)
    if pair.lora:
        inject_lora(student, LoRASettings(16, 16.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj")), 0)
    tokens = read_tokens(file.metadata, pair.teacher.vocab, str(path))
    shared = share_vocabulary([map_tokens(tokens, tokens, None, 1.0)])
    params = DistillationParams(pair.loss, 2.0, 0.5)  # type: ignore[arg-type]
    source = Teachers([Teacher(str(path), load_mapped(file, backend))], shared, params)
    taught = DistilledModel(student, source, shared, params)
    optimizer = AdamW(student.trainable(), weight_decay=0.01)
    batch = random_batch(shared.n, ROWS, LENGTH, 0)

    def step_of(learner: Learner) -> Step:
        def step() -> float:
            started = time.perf_counter()
            with Tape() as tape:
                loss = learner.loss(batch, 1.0 / batch.n_supervised, PassKey(0, 0, 0))
            tape.backward(loss)
            optimizer.step(1e-5, clip(optimizer.parameters, 1.0))
            optimizer.zero_grad()
            return time.perf_counter() - started

        return step

    def forward() -> float:
        """With all logits, some rows at a time, as the teacher's own loss would need them."""
        started = time.perf_counter()
        model = source.teachers[0].model
        hidden = model.hidden_states(batch.tokens, batch.positions, batch.starts).data
        flat, head = hidden.reshape(-1, pair.teacher.hidden), model.output.frozen_handle()
        rows = backend.loss_rows(pair.teacher.vocab, head)
        for start in range(0, len(flat), rows):
            backend.linear(flat[start : start + rows], head)
        return time.perf_counter() - started

    return step_of(student), forward, step_of(taught)


def memory(folder: Path, data: Path) -> list[str]:
    """The command with and without a teacher of tl1b's shape in Q4_K_M."""
    student, teachers = folder / "s134-q8_0.gguf", write_teachers(folder, BY_NAME["tl1b"], data)
    teacher = teachers["q4_k_m"]
    alone = _watched({}, student, folder, data)
    taught = _watched({"distill": {"teacher": str(teacher)}}, student, folder, data)
    size, mib = teacher.stat().st_size, 2**20
    added, own = taught.peak_proportional - alone.peak_proportional, taught.peak_anonymous - alone.peak_anonymous
    return [
        f"Memory of `entrenar train` (s134 Q8_0, QLoRA) with a teacher of {size / mib:.0f} MiB (tl1b, Q4_K_M)",
        f"  PSS {alone.peak_proportional / mib:.0f} MiB alone, {taught.peak_proportional / mib:.0f} MiB with it:"
        f" {added / mib:+.0f} MiB, {added / size:.2f} of its file; anonymous {own / mib:+.0f} MiB",
    ]


def _watched(sections: Mapping[str, Any], student: Path, folder: Path, data: Path) -> Watched:
    output = folder / "run"
    config = {
        "model": {"path": str(student)},
        "data": gsm8k_section(data),
        "lora": {"rank": 16, "alpha": 32},
        "output": {"gguf": False},
        "training": {"max_steps": 2, "threads": 2, "output_dir": str(output)},
        **sections,
    }
    watched = train_command(config, folder, name="run")
    subprocess.run(["rm", "-r", str(output)], check=True)
    return watched
