"""`python -m benchmarks [NAME ...]`: the quick benchmarks, or those named; prints ratios against peers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec

from benchmarks import (
    big_lora,
    codec_speed,
    distill_quality,
    distill_run,
    distill_step,
    evaluation,
    generation,
    k_encode_speed,
    kernels,
    learning,
    lora_step,
    memory_estimate,
    merge_mergekit,
    merge_quality,
    merge_speed,
    qat,
    qlora,
    quantization_accuracy,
    quantize_file,
    startup,
    streaming,
    teacher_cache,
)

Benchmark = Callable[[], list[str]]

QUICK: dict[str, Benchmark] = {
    "startup": startup.run,
    "lora_step": lora_step.run,
    "kernels": kernels.run,
    "codec_speed": codec_speed.run,
    "k_encode_speed": k_encode_speed.run,
}
LONG: dict[str, Benchmark] = {
    "distill_step": distill_step.run,
    "distill_run": distill_run.run,
    "distill_quality": distill_quality.run,
    "learning": learning.run,
    "tl1b_lora": big_lora.run,
    "memory_estimate": memory_estimate.run,
    "streaming": streaming.run,
    "qat": qat.run,
    "qlora": qlora.run,
    "evaluation": evaluation.run,
    "generation": generation.run,
    "quantization_accuracy": quantization_accuracy.run,
    "quantize_file": quantize_file.run,
    "merge_mergekit": merge_mergekit.run,
    "merge_speed": merge_speed.run,
    "merge_quality": merge_quality.run,
    "teacher_cache": teacher_cache.run,
}
"""These take many minutes, real data or gigabytes of disk, and run only when they are named."""
BENCHMARKS = QUICK | LONG
WITHOUT_PEERS = {
    *("tl1b_lora", "memory_estimate", "streaming", "qat", "qlora", "merge_quality"),
    *("teacher_cache", "distill_run", "distill_quality"),
}
MERGEKIT = {"merge_mergekit", "merge_speed"}
"""Their peer is installed by themselves, in an environment of its own."""


def main() -> None:
    """Run the benchmarks and print their tables; ends with status 1 if a line says that something failed."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: {', '.join(QUICK)}"
    )
    names = parser.parse_args().names or list(QUICK)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    if not set(names) <= WITHOUT_PEERS | MERGEKIT and find_spec("torch") is None:
        parser.exit(2, "the peers are not installed: pip install torch==2.13.0, then pip install '.[oracle]'\n")
    failed = False
    for name in names:
        lines = BENCHMARKS[name]()
        print("\n".join(lines), flush=True)
        failed = failed or any("FAILED" in line for line in lines)
    sys.exit(failed)


if __name__ == "__main__":
    main()
