"""Worker: the best of several calls of each kernel of one contestant."""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.interleave import serve
from benchmarks.kernel_cases import Step, our_cases, torch_cases

CALLS = 20


def best_seconds(step: Step) -> float:
    """The fastest of `CALLS` calls, after one that is not counted."""
    step()
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=("ours", "torch"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    cases = (our_cases if options.contestant == "ours" else torch_cases)(options.threads)

    def step() -> dict[str, Any]:
        found = {name: best_seconds(case) for name, case in cases.items()}
        return {"seconds": sum(found.values()), "cases": found}

    serve(step)


if __name__ == "__main__":
    main()
