"""`python -m benchmarks [NAME ...]`: every benchmark, or those named; prints ratios against peers."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import kernels, lora_step

BENCHMARKS: dict[str, Callable[[], list[str]]] = {"lora_step": lora_step.run, "kernels": kernels.run}


def main() -> None:
    """Run the benchmarks and print their tables."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    for name in names:
        print("\n".join(BENCHMARKS[name]()), flush=True)


if __name__ == "__main__":
    main()
