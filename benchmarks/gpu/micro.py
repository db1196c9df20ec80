"""The process that measures single kernels; see `micro_cases`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks.gpu.cases import Cases, serve_cases
from benchmarks.gpu.child import Message
from benchmarks.gpu.micro_cases import CASES, Bench, MicroSizes
from benchmarks.gpu.subject import open_subject
from benchmarks.gpu.timing import EventTimer
from benchmarks.gpu.transfers import transfers

_SHARE_OF_ADAMW = 0.4
"""Of the free memory, which its four arrays may take."""


def cases_of(bench: Bench) -> Cases:
    """The cases of a device, with copies from the host."""
    return {name: partial(_messages, bench, name) for name in CASES}


def _messages(bench: Bench, name: str) -> Iterator[Message]:
    for figure in CASES[name](bench):
        yield figure.message()


def _open() -> tuple[Cases, Callable[[], None]]:
    import cupy

    subject = open_subject()
    free, _ = cupy.cuda.runtime.memGetInfo()
    sizes = MicroSizes()
    fitting = min(sizes.parameters, int(_SHARE_OF_ADAMW * free / 16))
    bench = Bench(subject, EventTimer(), replace(sizes, parameters=fitting))
    return cases_of(bench) | {"transfers": partial(transfers, bench)}, subject.runtime.synchronize


NAMES = (*CASES, "transfers")

if __name__ == "__main__":
    serve_cases(_open)
