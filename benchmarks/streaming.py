"""Training on data that are larger than memory: 200 steps over a parquet file of 5 GB, and a resume in the middle.

Three runs of `entrenar train` on the bundled model, with the same batches of the same length: on a small file of the
same kind, on the large one, and on the large one stopped half-way and resumed. Memory growth is the difference of the
peaks; each row names its row group, so the rows that training saw tell which groups they came from. Takes 5 GB of disk
and some minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import Watched, read_metrics, train_command, watch
from entrenar_core.config.data import Data
from entrenar_core.data.opening import open_sources
from entrenar_core.data.stream_plan import plan_pass

MODEL = Path(__file__).parents[1] / "examples" / "tiny-base.gguf"
STEPS, BATCH_SIZE, SEQ_LEN = 200, 8, 64
LARGE_BYTES, SMALL_BYTES, GROUP_BYTES = 5 << 30, 20 << 20, 64 << 20
GROWTH_LIMIT = 200 << 20
SENTENCE_WORDS, ROW_SENTENCES = 15, 8
WORDS = ("otter", "mill", "bell", "river", "lantern", "story", "morning", "Nora", "walked", "found", "silver", "quiet")
WALL_CLOCK = ("seconds", "peak_memory_bytes")


def run() -> list[str]:
    """Size, groups, memory, speed, and whether the resumed run took the same steps."""
    with tempfile.TemporaryDirectory(prefix="entrenar-stream-") as name:
        scratch = Path(name)
        started = time.perf_counter()
        large, small = scratch / "large.parquet", scratch / "small.parquet"
        n_bytes, n_groups = write_stories(large, LARGE_BYTES)
        write_stories(small, SMALL_BYTES)
        lines = [
            f"streaming: {n_bytes / 2**30:.2f} GiB in {n_groups} row groups,"
            f" written in {time.perf_counter() - started:.0f} s; {STEPS} steps of {BATCH_SIZE} x {SEQ_LEN} tokens"
        ]
        few = _train(scratch, small, "small", STEPS)
        all_at_once = _train(scratch, large, "large", STEPS)
        growth = all_at_once.peak_resident - few.peak_resident
        verdict = "within" if growth <= GROWTH_LIMIT else "ABOVE"
        lines += [
            f"  peak memory: {few.peak_resident / 2**20:.0f} MiB on {SMALL_BYTES >> 20} MiB of data,"
            f" {all_at_once.peak_resident / 2**20:.0f} MiB on all: growth {growth / 2**20:.0f} MiB ({verdict} 200)",
            f"  whole command: {few.seconds:.1f} s on the small file, {all_at_once.seconds:.1f} s on the large one",
            f"  row groups that the steps drew from: {groups_drawn(large)} of {n_groups}",
            f"  {_resume(scratch, large)}",
        ]
        return lines


def write_stories(path: Path, n_bytes: int) -> tuple[int, int]:
    """A parquet file of random text of about this size; returns its bytes and its row groups."""
    rng = np.random.default_rng(7)
    count, written = 0, 0
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        while written < n_bytes:
            texts = list(_texts(rng, count, GROUP_BYTES if n_bytes > GROUP_BYTES else n_bytes // 4))
            writer.write_table(pa.table({"id": range(len(texts)), "text": texts}, schema=schema))
            written += sum(map(len, texts))
            count += 1
    return path.stat().st_size, count


def _texts(rng: np.random.Generator, group: int, n_bytes: int) -> Iterator[str]:
    """Rows of one group: sentences in random order, the group's number in front."""
    sentences = [" ".join(words) for words in np.array(WORDS)[rng.integers(0, len(WORDS), (512, SENTENCE_WORDS))]]
    done = 0
    while done < n_bytes:
        for row in rng.integers(0, len(sentences), (512, ROW_SENTENCES)).tolist():
            text = f"{group} " + ". ".join([sentences[index] for index in row])
            done += len(text)
            yield text


def _config(data: Path, output: Path, steps: int) -> dict[str, Any]:
    return {
        "model": {"path": str(MODEL)},
        "data": {
            "train": str(data),
            "batch_size": BATCH_SIZE,
            "seq_len": SEQ_LEN,
            "overlong": "truncate",
            "streaming": True,
        },
        "lora": {"rank": 4},
        "training": {"max_steps": steps, "threads": 2, "output_dir": str(output)},
    }


def _train(scratch: Path, data: Path, name: str, steps: int) -> Watched:
    watched = train_command(_config(data, scratch / name, steps), scratch, name=name)
    print(f"  [{name}] {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    return watched


def groups_drawn(data: Path) -> int:
    """How many row groups the rows of the training steps lie in."""
    (opened,) = open_sources(Data(train=str(data), streaming=True), Data(train=str(data)).train)
    groups = opened.source.groups()
    plan = plan_pass([group.n_rows for group in groups], [1.0] * len(groups), shuffle=True, seed=42, index=0)
    visits = -(-STEPS * BATCH_SIZE // plan.run_rows)
    return len(set(plan.groups[:visits].tolist()))


def _resume(scratch: Path, data: Path) -> str:
    """Train half of the steps, go on to all of them, and compare with the run that was not stopped."""
    _train(scratch, data, "resumed", STEPS // 2)
    config = scratch / "resumed.yaml"
    command = [str(Path(sys.executable).with_name("entrenar")), "train", str(config), "--resume"]
    started = time.perf_counter()
    watch([*command, "--set", f"training.max_steps={STEPS}"], scratch / "again.log")
    seconds = time.perf_counter() - started
    once, twice = (
        [{key: value for key, value in line.items() if key not in (*WALL_CLOCK, "total_steps")} for line in lines]
        for lines in (read_metrics(scratch / "large", "step"), read_metrics(scratch / "resumed", "step"))
    )
    equal = sum(a == b for a, b in zip(once, twice, strict=True))
    return f"stopped at {STEPS // 2} and resumed ({seconds:.1f} s): {equal} of {STEPS} steps are equal to the last bit"
