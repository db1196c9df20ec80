"""What is kept of a distribution over a vocabulary: its k most likely tokens, and the mass of all others together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from entrenar_core.data.teacher_shard import TopTokens
from entrenar_core.threads import Threads

Float32Array = npt.NDArray[np.float32]


def keep_top_k(rows: Float32Array, top_k: int, threads: Threads) -> TopTokens:
    """The `top_k` largest of each row and their ids, ascending, and the log of the sum of e^x over the others.

    Of equal values those with smaller ids are kept. A row that holds a NaN or +inf gives one again, in its values or
    its tail.

    Args:
        rows: float32 [m, n], C-contiguous, n ≥ top_k; used as scratch.
        top_k: how many.
        threads: rows are shared out over them; the result does not depend on it.
    """
    from entrenar_core.distill.top_k_kernels import keep_largest

    shape = (len(rows), top_k)
    kept = TopTokens(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(len(rows), np.float32))
    threads.run(keep_largest, len(rows), rows, kept.ids, kept.values, kept.log_tail)
    return kept
