"""Runs a model over rows of tokens and keeps statistics of what its matrices are multiplied by.

Every linear layer shows its input to an observer. Layers that share an input (q, k and v; gate and up) share what is
kept of it. Positions of padding are left out. The matrices of all blocks are measured; the output matrix only when it
is asked for, as llama-imatrix has it, and token embeddings never, for they are looked up and not multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.autograd.tape import no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.codecs.base import Floats
from entrenar_core.data.batch import Batch
from entrenar_core.errors import ModelError
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.layers import Linear
from entrenar_core.model.module import Module
from entrenar_core.quant.granularity_ranges import PieceRange, joined, piece_range, tensor_range
from entrenar_core.quant.imatrix import ImportanceEntry, ImportanceMatrix
from entrenar_core.quant.observers import ColumnStatistic, MeanSquare

MakeStatistic = Callable[[int], ColumnStatistic]
"""A fresh statistic for this many columns."""

REPORTED_PERCENTILE = 99.9


@dataclass(frozen=True)
class InputRange:
    """The inputs of some weights that share them, for a report. percentile: `REPORTED_PERCENTILE` of the magnitudes, at
    most 1/128 above the exact one."""

    weights: tuple[str, ...]
    columns: int
    inputs: int
    low: float
    high: float
    percentile: float

    def as_json(self) -> dict[str, object]:
        """Its fields as JSON has them."""
        return {**asdict(self), "weights": list(self.weights)}


class InputStatistics:
    """What is known of one input: the weights that it goes to, its statistic, and the range of all its numbers."""

    def __init__(self, statistic: ColumnStatistic) -> None:
        self.weights: list[str] = []
        self.statistic = statistic
        self.inputs = 0
        self._range: PieceRange | None = None

    def add(self, x: Floats) -> None:
        """Inputs float32 [M, in] of one row of tokens."""
        if not np.isfinite(x).all():
            raise ModelError(
                "its inputs are not finite", where=f"tensor {self.weights[0]}", hint="the model's weights are broken"
            )
        piece = piece_range(x, with_counts=True)
        self._range = piece if self._range is None else joined([self._range, piece])
        self.statistic.add(x)
        self.inputs += len(x)

    def report(self) -> InputRange:
        """See `InputRange`."""
        assert self._range is not None, "nothing was seen"
        limit = tensor_range([self._range], REPORTED_PERCENTILE, symmetric=True)
        percentile = max(-float(limit.low[0]), float(limit.high[0]))
        columns = len(self.statistic.importance())
        return InputRange(tuple(self.weights), columns, self.inputs, self._range.low, self._range.high, percentile)


class Calibrator:
    """Collects the statistics of all inputs of a model; an `InputObserver`.

    Args:
        make_statistic: of an input with a number of columns.
    """

    def __init__(self, make_statistic: MakeStatistic) -> None:
        self.by_weight: dict[str, InputStatistics] = {}
        self._make_statistic = make_statistic
        self._kept = np.zeros((0, 0), np.bool_)
        self._last: tuple[Tensor, InputStatistics] | None = None

    @property
    def statistics(self) -> list[InputStatistics]:
        """Each input once, in the order in which they are met."""
        return list({id(one): one for one in self.by_weight.values()}.values())

    def importance(self) -> dict[str, Floats]:
        """float32 [in] by name of the weight, in the order of the names."""
        return {name: one.statistic.importance() for name, one in sorted(self.by_weight.items())}

    def see(self, weight: str, x: Tensor) -> None:
        """Add the inputs x [B, T, in] of a weight, one row after the other."""
        if self._last is not None and self._last[0] is x:
            found = self._last[1]
        else:
            found = self.by_weight.get(weight) or InputStatistics(self._make_statistic(x.shape[-1]))
            found.weights = found.weights or [weight]
            for row, kept in zip(x.numpy(), self._kept, strict=True):
                found.add(np.ascontiguousarray(row[kept], np.float32))
            self._last = (x, found)
        if weight not in self.by_weight:
            self.by_weight[weight] = found
            found.weights = sorted({*found.weights, weight})

    @contextmanager
    def watching(self, kept: npt.NDArray[np.bool_]) -> Iterator[None]:
        """During one forward pass, of whose positions those in `kept` bool [B, T] are no padding."""
        self._kept, self._last = kept, None
        try:
            yield
        finally:
            self._kept, self._last = kept[:0], None


def calibrate(
    model: LanguageModel,
    batches: Iterable[Batch],
    make_statistic: MakeStatistic,
    *,
    with_output: bool = False,
    after_rows: Callable[[int], None] = lambda count: None,
) -> Calibrator:
    """Run the model over every row of some batches.

    Args:
        model: on any backend; dropout is off, and nothing is recorded.
        batches: rows of tokens; padding does not count.
        make_statistic: what is kept of each input.
        with_output: measure the inputs of the output matrix too; if it is the embedding, under that name.
        after_rows: hears after each batch how many rows are done.

    Raises:
        ModelError: an input is NaN or infinite, or a token is outside the vocabulary.
    """
    calibrator = Calibrator(make_statistic)
    done = 0
    layers = [layer for block in model.blocks for layer in linear_layers(block)]
    with observed(layers, calibrator), no_grad():
        for batch in batches:
            with calibrator.watching(real_positions(batch)):
                hidden = model.hidden_states(batch.tokens, batch.positions, batch.starts)
                if with_output:
                    calibrator.see(str(model.output.weight.name), hidden)
            done += len(batch.tokens)
            after_rows(done)
    return calibrator


@contextmanager
def observed(layers: Iterable[Linear], calibrator: Calibrator) -> Iterator[None]:
    """Let every layer show its inputs; afterwards none does."""
    watched = list(layers)
    for layer in watched:
        layer.observer = calibrator
    try:
        yield
    finally:
        for layer in watched:
            layer.observer = None


def linear_layers(module: Module) -> Iterator[Linear]:
    """The linear layers in and below a module, in order of definition."""
    if isinstance(module, Linear):
        yield module
    for child in module.children():
        yield from linear_layers(child)


def real_positions(batch: Batch) -> npt.NDArray[np.bool_]:
    """bool [B, T]: those that are no padding, which ends a row: positions without a label that see only themselves.

    A document of a single position that has no label would count as padding; `token_rows` makes none.
    """
    alone = (batch.starts == np.arange(batch.tokens.shape[1])) & (batch.labels < 0)
    tail: npt.NDArray[np.bool_] = np.logical_and.accumulate(alone[:, ::-1], axis=1)[:, ::-1]
    return ~tail


def importance_matrix(calibrator: Calibrator, datasets: tuple[str, ...], chunk_size: int) -> ImportanceMatrix:
    """What was measured by `MeanSquare`, as a file holds it.

    Args:
        calibrator: after its rows.
        datasets: names of the data.
        chunk_size: tokens of a row.
    """
    entries = {}
    for name, one in sorted(calibrator.by_weight.items()):
        statistic = one.statistic
        assert isinstance(statistic, MeanSquare), "only mean squares have a file"
        counts = np.array([statistic.count], np.float32)
        entries[name] = ImportanceEntry(statistic.sums.astype(np.float32)[None, :], counts)
    tokens = max((one.inputs for one in calibrator.statistics), default=0)
    return ImportanceMatrix(entries, datasets, -(-tokens // chunk_size), chunk_size)
