"""How much each matrix loses in each type, measured on a sample of its rows.

The error is relative: Σ w·(x̂ - x)² / Σ w·x² with the importance of the columns as w (1 where there is none). With
w the mean squares of the inputs this is the expected error of the matrix's output, relative to that output; so large
and small matrices can be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from entrenar_core.codecs.base import Floats
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.quant.convert import Importance, refusal
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.source import RowSource
from entrenar_core.quant.workers import run_pieces

CANDIDATES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q4_0", "IQ4_NL", "Q5_K", "Q5_0", "Q6_K", "Q8_0", "F16", "BF16", "F32")
"""What a tensor can become under a target size, where its rows fit and it is no more bytes than now."""

SAMPLE_VALUES = 1 << 16


def candidate_types(info: TensorInfo) -> list[str]:
    """The types that a tensor could be written in without growing; its own among them."""
    row = info.shape[-1]
    now = TYPE_BY_NAME[info.type_name].row_bytes(row)
    found = [
        name
        for name in CANDIDATES
        if name in ENCODABLE and row % TYPE_BY_NAME[name].block_size == 0 and TYPE_BY_NAME[name].row_bytes(row) < now
    ]
    return [*found, info.type_name]


def measure_sensitivity(
    tensors: Sequence[PlannedTensor],
    candidates: Sequence[Sequence[str]],
    source: RowSource,
    importance: Importance,
    n_workers: int,
    watch: Callable[[int], None],
) -> list[dict[str, float]]:
    """The relative error of each tensor in each of its candidate types; 0 for the type that it has.

    Args:
        tensors: matrices.
        candidates: types, for each of them.
        source: where their rows are read.
        importance: see `convert.Importance`.
        n_workers: threads; the result does not depend on it.
        watch: called with the number of tensors that are done.

    Raises:
        FormatError: a value is not finite; the message names tensor, row and column.
    """
    found: list[dict[str, float]] = [{} for _ in tensors]
    done = [0] * n_workers

    def work(index: int, worker: int) -> None:
        info = tensors[index].info
        rows, values = sample(tensors[index], source)
        weights = _weights(importance.get(info.name), rows, info)
        for type_name in candidates[index]:
            is_same = type_name == info.type_name
            try:
                error = 0.0 if is_same else relative_error(type_name, values, weights)
            except FormatError as refused:
                raise refusal(refused, values, rows.tolist(), source.where(info)) from refused
            found[index][type_name] = error
        done[worker] += 1

    run_pieces(work, len(tensors), n_workers, lambda: watch(sum(done)))
    return found


def sample(tensor: PlannedTensor, source: RowSource) -> tuple[np.ndarray, Floats]:
    """Evenly spaced rows of a tensor: their numbers, and their values float32 [rows, columns]."""
    info = tensor.info
    codec, row_bytes = codec_for(info.type_name), TYPE_BY_NAME[info.type_name].row_bytes(tensor.n_columns)
    count = min(tensor.n_rows, max(1, SAMPLE_VALUES // tensor.n_columns))
    rows = np.arange(count) * tensor.n_rows // count
    raw = np.empty((count, row_bytes), np.uint8)
    for place, row in enumerate(rows):
        source.read(info, int(row) * row_bytes, raw[place])
    return rows, codec.decode(raw)


def relative_error(type_name: str, values: Floats, weights: Sequence[tuple[slice, Floats | None]]) -> float:
    """The error of rows float32 [rows, columns] in a type; `weights` has the importance of ranges of them."""
    codec, noise, power = codec_for(type_name), 0.0, 0.0
    for part, importance in weights:
        rows = values[part]
        error = codec.decode(codec.encode(rows, importance)) - rows
        squared, squares = (np.sum(one.astype(np.float64) ** 2, axis=0) for one in (error, rows))
        scale = 1.0 if importance is None else importance.astype(np.float64)
        noise += float(np.sum(squared * scale))
        power += float(np.sum(squares * scale))
    return noise / power if power else 0.0


def _weights(importance: Floats | None, rows: np.ndarray, info: TensorInfo) -> list[tuple[slice, Floats | None]]:
    """The sampled rows in ranges of one importance each: those of a stack of matrices have several."""
    if importance is None or importance.ndim == 1:
        return [(slice(0, len(rows)), importance)]
    matrices = rows // info.shape[-2]
    bounds = [0, *(np.flatnonzero(np.diff(matrices)) + 1).tolist(), len(rows)]
    return [(slice(start, stop), importance[matrices[start]]) for start, stop in itertools.pairwise(bounds)]
