"""Sets examples aside for validation: a seeded choice, the same for the same data and seed."""

from __future__ import annotations

import numpy as np

from entrenar_core.data.load import DataSet
from entrenar_core.data.order import Purpose, permutation
from entrenar_core.errors import DataError


def split_validation(data: DataSet, fraction: float, seed: int) -> tuple[DataSet, DataSet]:
    """Split into (train, validation), both in the order of the data set, with at least one example on each side.

    The unit is the example: windows of one long row may fall on both sides.

    Raises:
        DataError: `fraction` is not between 0 and 1, or there are fewer than two examples.
    """
    where = "data.val_fraction"
    if not 0.0 < fraction < 1.0:
        raise DataError(f"{fraction} is not between 0 and 1", where=where, hint="for example 0.05")
    count = len(data)
    if count < 2:
        raise DataError(f"{count} example cannot be split in two", where=where, hint="name a file in data.val instead")
    n_val = min(count - 1, max(1, round(count * fraction)))
    order = permutation(count, seed=seed, epoch=0, purpose=Purpose.VALIDATION)
    train = _part(data, np.sort(order[n_val:]), data.weights)
    return train, _part(data, np.sort(order[:n_val]), (1.0,) * len(data.weights))


def _part(data: DataSet, indices: np.ndarray, weights: tuple[float, ...]) -> DataSet:
    bounds = np.searchsorted(indices, data.bounds).astype(np.int64)
    return DataSet(data.examples, bounds, weights, data.members()[indices])
