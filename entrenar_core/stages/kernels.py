"""Kernels are compiled before work is measured or divided among threads, and it is said when that takes a while: up to
half a minute, once on a machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np

from entrenar_core.codecs.registry import codec_for
from entrenar_core.events import Compiling, Reporter
from entrenar_core.jit import before_compiling


@contextmanager
def compiling_said(what: str, reporter: Reporter) -> Iterator[None]:
    """Tell the reporter once if kernels are compiled on this thread inside the block; `what` they are for."""
    with before_compiling(lambda: reporter.emit(Compiling(what))):
        yield


def load_codecs(
    decoded: Collection[str], encoded: Collection[str], reporter: Reporter, *, measures: bool = False
) -> None:
    """Call each decoder and encoder once.

    Args:
        decoded, encoded: GGML types.
        reporter: hears if that compiles anything.
        measures: whether what is encoded will be decoded too.
    """
    if not decoded and not encoded:
        return
    with compiling_said(", ".join(sorted({*decoded, *encoded})), reporter):
        for source in sorted(decoded):
            reader = codec_for(source)
            reader.decode(np.zeros((1, reader.block_bytes), np.uint8))
        for target in sorted(encoded):
            codec = codec_for(target)
            packed = codec.encode(np.zeros((1, codec.block_size), np.float32))
            if measures:
                codec.decode(packed)
